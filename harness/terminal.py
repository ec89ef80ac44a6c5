"""What a command says brings its work to no end: neither a reader who has left nor a terminal of few characters."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

ENDLESS = 1_000  # columns: as much as a line or a table needs


class _Heard(io.FileIO):
    """A stream that goes on where nobody reads it any more (`| head -2`): what is said from then on is lost, and the
    work is not."""

    def write(self, said: Any) -> int:
        try:
            return super().write(said)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(said)


def outlive_readers() -> None:
    """Lets stdout and stderr outlive their readers, and write as an escape what their encoding does not hold."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):  # closed, or somebody else's
            continue
        stream.flush()
        raw = io.BufferedWriter(_Heard(stream.fileno(), "w", closefd=False))
        at_once = stream.line_buffering or stream.write_through
        setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=at_once))


def speaker() -> Console:
    """Where a command says what people read. A pipe or a log has no width, and no line there is broken in two, unless
    COLUMNS asks for it."""
    from rich.console import Console

    endless = not (sys.stdout and sys.stdout.isatty()) and "COLUMNS" not in os.environ
    return Console(width=ENDLESS if endless else None)
