"""Draws reports from records: of one run, of several compared, or of all in a folder.

Exit codes: 0 drawn, 2 a mistake in the command or its files, 70 a fault of the harness itself, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import compare, index
from harness.escaping import visible
from harness.report import against
from harness.report.page import write
from harness.terminal import Arguments, ended


def _run(arguments: Sequence[str] | None) -> int:
    parser = Arguments(
        prog="python -m harness.report",
        description="Draw a run's report again, compare runs, or list them; nothing is measured.",
        usage="%(prog)s RUN | %(prog)s RUN RUN [RUN ...] [--anyway] [--to FILE] | %(prog)s --index OUTPUTS",
        epilog=(__doc__ or "").split("\n\n")[-1],
    )
    parser.add_argument(
        "runs", type=Path, nargs="*", metavar="RUN",
        help="a run folder; of two or more, the oldest first, each is compared with the first, cell by cell",
    )  # fmt: skip
    parser.add_argument("--index", type=Path, metavar="OUTPUTS", help="one page for all runs of an outputs folder")
    parser.add_argument("--anyway", action="store_true", help="compare the quality of runs of different hardware")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="a comparison's page, FILE.html, and beside it FILE.md (default: compare.html in the last run's folder)",
    )
    given = parser.parse_args(arguments)
    if bool(given.index) == bool(given.runs):
        parser.error("give a run folder, several to compare, or --index OUTPUTS")
    if len(given.runs) < 2 and (given.anyway or given.to):
        parser.error("--to and --anyway are for comparing runs; give two or more, or leave them out")
    if given.to and (given.to.suffix != ".html" or os.path.isdir(given.to)):
        parser.error(f"--to {given.to}: is no page; give a file whose name ends in .html")
    print("\n".join(_drawn(given)))
    return 0


def _drawn(given: argparse.Namespace) -> list[str]:
    """Draws what was asked for; returns what a terminal is told of it."""
    if given.index:
        return [visible(index.write(given.index))]
    if len(given.runs) == 1:
        page, said = write(given.runs[0])
        return [*said, visible(page)]
    found = against.view(compare.read(given.runs), given.anyway)
    target = given.to or given.runs[-1] / "compare.html"
    against.write(found, target)
    return [*against.lines(found), visible(target)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return ended(lambda: _run(arguments))


if __name__ == "__main__":
    sys.exit(main())
