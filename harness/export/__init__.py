"""The deployable folder of a chosen cell: what was measured, laid down to be served without the harness."""
