"""Draws reports from records: of one run, of several compared, or of all in a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import compare, index
from harness.errors import UserError
from harness.report.page import three_lines, write


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.report",
        description="Draw a run's report again, compare runs, or list them; nothing is measured.",
        usage="%(prog)s RUN | %(prog)s RUN RUN [RUN ...] [--anyway] [--to FILE] | %(prog)s --index OUTPUTS",
    )
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="a run folder; two or more are compared")
    parser.add_argument("--index", metavar="OUTPUTS", help="one page for all runs of an outputs folder")
    parser.add_argument("--anyway", action="store_true", help="compare the quality of runs of different hardware")
    parser.add_argument("--to", metavar="FILE", help="the page of a comparison")
    given = parser.parse_args(arguments)
    if given.index and not given.runs:
        return index.main([given.index])
    if given.index or not given.runs:
        parser.error("give a run folder, several to compare, or --index OUTPUTS")
    if len(given.runs) > 1:
        options = ["--anyway"] * given.anyway + (["--to", given.to] if given.to else [])
        return compare.main([*map(str, given.runs), *options])
    try:
        page = write(given.runs[0])
        print("\n".join([*three_lines(given.runs[0]), str(page)]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
