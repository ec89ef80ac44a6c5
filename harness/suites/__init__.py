"""Suites of your own: `new` makes one from a table of rows, `check` says what is wrong with one."""
