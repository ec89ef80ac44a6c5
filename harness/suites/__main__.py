"""`python -m harness.suites`: makes a suite of your own from a table of rows, and says what is wrong with one.

    python -m harness.suites new my_suite --from rows.csv --message question --reply answer --group customer
    python -m harness.suites check my_suite

`new` writes three things below the working directory: `suites/my_suite/` (rows, scorers, instructions and a card to
fill), `conf/suite/my_suite.yaml` and `conf/sweep/my_suite.yaml`. `python -m harness +sweep=my_suite` then finds them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.suites.check import check
from harness.suites.new import EVALUATION_SHARE, SYSTEM, new
from harness.terminal import outlive_readers

SHOWN = 20  # lines of one kind


def _told(lines: Sequence[str], prefix: str) -> None:
    for line in lines[:SHOWN]:
        print(f"{prefix}{line}", file=sys.stderr)
    if len(lines) > SHOWN:
        print(f"{prefix}... and {len(lines) - SHOWN} more", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for a mistake in the command or the suite."""
    outlive_readers()
    parser = argparse.ArgumentParser(
        prog="python -m harness.suites", description="Make a suite of your own, or check one."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("new", help="make a suite from a CSV or JSONL file")
    make.add_argument("name", help="lower-case letters, digits and _")
    make.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help="a .csv, .tsv or .jsonl")
    for column, what in (
        ("message", "what is asked"), ("reply", "the reference answer"), ("group", "what belongs together (optional)"),
        ("case", "the kind of row (optional)"), ("id", "a unique name (optional)"),
    ):  # fmt: skip
        make.add_argument(f"--{column}", default=column, metavar="COLUMN", help=f"the column that holds {what}")
    make.add_argument("--eval-share", type=float, default=EVALUATION_SHARE, help="of the groups (default 0.3)")
    make.add_argument("--system", help=f"the system message (default: that of all chats in FILE, or {SYSTEM!r})")
    look = commands.add_parser("check", help="say all that is wrong with a suite (this runs its scorers.py)")
    look.add_argument("name")
    given = parser.parse_args(arguments)
    try:
        if given.command == "new":
            names = {k: getattr(given, k) for k in ("message", "reply", "group", "case", "id")}
            print("\n".join(new(given.name, given.source, names, given.eval_share, given.system, Path())))
            return 0
        mistakes, warnings, facts = check(given.name)
    except UserError as error:
        _told(error.mistakes, "harness: ")
        return 2
    _told(mistakes, "mistake: ")
    _told(warnings, "warning: ")
    print("\n".join(facts))
    counts = [f"{len(found)} {what}{'' if len(found) == 1 else 's'}" for found, what in
              ((mistakes, "mistake"), (warnings, "warning"))]  # fmt: skip
    print(f"{given.name}: {', '.join(counts)}")
    return 2 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
