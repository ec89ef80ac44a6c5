"""How commands speak and end: what they say brings their work to no end, neither a reader who has left nor a terminal
of few characters, and what brings it to one is told in the same way by all."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from harness.errors import UserError
from harness.escaping import visible
from harness.files import UNWRITABLE

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
    return Console(width=ENDLESS if endless else None, highlight=False)


class Arguments(argparse.ArgumentParser):
    """Of a command line whose mistakes are shown as others are."""

    def error(self, message: str) -> NoReturn:
        super().error(visible(message))


def tell(lines: Sequence[str], prefix: str = "harness: ") -> None:
    """Says lines on stderr, whoever made their text."""
    for line in lines:
        print(f"{prefix}{visible(line)}", file=sys.stderr)


def _stopped(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: OmegaConf, stopped at a bad moment, fails over its own tidying up."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def end_at_sigterm() -> None:
    """Has SIGTERM end this program as an error would, with 143: what it began is then taken away or stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def ended(work: Callable[[], int]) -> int:
    """The exit code of a command: that of its work; 2 for mistakes of the user, a line each, for a disk that is full or
    may not be written, and for a name that is too long; 130 where Ctrl-C stopped it; 70 with the traceback for a fault
    of the harness, for which Python's own is 1, a code that means something."""
    outlive_readers()
    try:
        return work()
    except UserError as error:
        tell(error.mistakes)
        return 2
    except SystemExit as stop:
        if isinstance(stop.code, int):
            return stop.code
        raise
    except BaseException as error:
        if _stopped(error):
            tell(["stopped"])
            return 130
        if isinstance(error, OSError) and error.errno in (*UNWRITABLE, errno.ENAMETOOLONG):
            where = f"{error.filename2 or error.filename or ''}: ".removeprefix(": ")
            long, mend = error.errno == errno.ENAMETOOLONG, "free space, or mend its rights, and run again"
            tell([f"{where}{error.strerror}; {'give a shorter one' if long else mend}"])
            return 2
        if not isinstance(error, Exception):
            raise
        traceback.print_exc()
        return os.EX_SOFTWARE
