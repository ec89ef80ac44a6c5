"""`python -m harness.store`: what a store holds, whether it is sound, and how it is kept small.

    python -m harness.store ls                   every build: kind, key, size, last use, whether a grid needs it now
    python -m harness.store verify               reads every byte and compares it with what was built
    python -m harness.store gc --keep-days 30    takes away what no grid used for 30 days, and what killed ones left
    python -m harness.store du                   bytes by kind, files that builds share counted once

Only folders that are builds by name and place are ever touched, and never one that a running grid needs.

Exit codes: 0 done and sound, 1 a build is broken, 2 a mistake in the command, or what may not be read, 70 a fault of
the harness itself, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.errors import UserError
from harness.escaping import terminal_text
from harness.store import Store, faults
from harness.store.upkeep import builds, collect, occupied_bytes
from harness.terminal import Arguments, ended, speaker, tell
from harness.types import StepKind

DAY_S = 86400


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def _ls(store: Store, console: Console) -> int:
    table, needed = Table("build", "what", "size", "unused for", "state"), set[str]()
    table.columns[0].no_wrap = True  # a key that is cut finds nothing
    with suppress(OSError), store.upkeep() as found:  # a store that may only be read says nothing of who uses it
        needed = found
    for build in reversed(builds(store)):
        state = "in use" if build.folder.name in needed else "evicted" if build.evicted else ""
        days = max(0.0, time.time() - build.used_unix) / DAY_S
        size = _size(occupied_bytes([build.folder]))
        if not build.title:
            state = "broken" if build.readable else "not readable"
        table.add_row(build.name, terminal_text(build.title), size, f"{days:.1f} days", state)
    console.print(table)
    return 0


def _verify(store: Store, console: Console) -> int:
    table, there, broken, unread = Table("build", "what", "broken"), 0, 0, list[str]()
    for build in builds(store):
        found = []
        try:
            found = faults(build.folder, thorough=True) and faults(build.folder, thorough=True)  # it may just have gone
        except PermissionError as error:  # it may be whole
            unread.append(f"{error.filename}: may not be read ({error.strerror})")
        if not build.folder.is_dir():
            continue
        there += 1
        if found:
            broken += 1
            table.add_row(build.name, terminal_text(build.title), terminal_text("\n".join(found)))
    if broken:
        console.print(table)
    anew, not_read = "; a grid that needs them builds them anew" * bool(broken), f"; {len(unread)} not readable"
    console.print(f"{there} builds: {broken} broken{anew}{not_read if unread else ''}")
    tell(unread)
    return 1 if broken else 2 if unread else 0


def _du(store: Store, console: Console) -> int:
    there = [b.folder for b in builds(store)]
    table = Table("kind", "builds", "size")
    for kind in StepKind:
        these = [f for f in there if f.parent.name == kind]
        table.add_row(str(kind), str(len(these)), _size(occupied_bytes(these)))
    rest = [store.root / name for name in ("tmp", "logs")]
    table.add_row("tmp, logs", "", _size(occupied_bytes(rest)))
    table.add_section()
    table.add_row("all", str(len(there)), _size(occupied_bytes([*there, *rest])))
    console.print(table)
    return 0


def _gc(store: Store, console: Console, keep_days: float) -> int:
    before = occupied_bytes([store.root])
    gone = collect(store, keep_days * DAY_S)
    for build in gone:
        console.print(f"{build.name}  {terminal_text(build.title)}")
    console.print(f"{len(gone)} builds taken away, {_size(before - occupied_bytes([store.root]))} freed")
    return 0


def _days(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (days := float(text)) < float("inf"):
            return days
    raise argparse.ArgumentTypeError(f"{text!r}: give days, 0 or more")


def _run(arguments: Sequence[str] | None) -> int:
    told = (__doc__ or "").split("\n\n")
    parser = Arguments("python -m harness.store", description=told[0], epilog=told[-1])
    parser.add_argument("--store", type=Path, default=Path(".harness/store"), metavar="DIR")
    whole = Arguments(add_help=False)
    whole.add_argument("--store", type=Path, default=argparse.SUPPRESS, metavar="DIR")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("ls", "every build"), ("verify", "read every byte"), ("du", "bytes by kind")):
        commands.add_parser(name, help=about, parents=[whole])
    gc = commands.add_parser("gc", help="take away what was long unused", parents=[whole])
    gc.add_argument("--keep-days", type=_days, required=True, metavar="N", help="keep what was used within N days")
    given = parser.parse_args(arguments)
    store, console = Store(given.store), speaker()
    if not any((store.root / kind).is_dir() for kind in StepKind):
        raise UserError(f"{store.root}: not a store (no base/, adapt/ ... in it); give one with --store DIR")
    if given.command == "gc":
        store.prepare("give another with --store DIR")
        return _gc(store, console, given.keep_days)
    return {"ls": _ls, "verify": _verify, "du": _du}[given.command](store, console)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return ended(lambda: _run(arguments))


if __name__ == "__main__":
    sys.exit(main())
