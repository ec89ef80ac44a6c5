"""All errors that the harness raises on purpose.

    HarnessError
    ├── UserError        a user's mistake or an unfit environment; shown as one line a mistake, exit code 2
    ├── BrokenArtifact   a build that does not hold what it claims; the cell is recorded as failed
    └── DoesNotFit       work that memory cannot hold, known before it starts; likewise

Everything else, but for what a disk refuses, is a bug of ours and keeps its traceback.
"""

from collections.abc import Sequence


class HarnessError(Exception):
    """Root of the tree; never raised itself."""


class UserError(HarnessError):
    """One or more mistakes, each a line that says what is wrong, where, and how to mend it."""

    def __init__(self, mistakes: str | Sequence[str]) -> None:
        self.mistakes = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class BrokenArtifact(HarnessError):
    """A checkpoint with missing keys, unreplaced layers, or answers far from its parent's."""


class DoesNotFit(HarnessError):
    """Rows whose keys and values need more memory than is free."""
