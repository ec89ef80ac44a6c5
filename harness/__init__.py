"""harness: decide how to adapt a language model and how to compress it, from measurements.

The grid is data, a runner carries out steps, a record is what a cell leaves behind, and everything after
the records is a pure function. `architecture` in the README's words: conf -> cells -> plan -> steps ->
store -> measurements -> records -> table -> decision -> report.
"""

__version__ = "0.1.0"
