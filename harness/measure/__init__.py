"""What is measured of an artifact: quality on the suite, fidelity to its parent, latency and memory, cost."""
