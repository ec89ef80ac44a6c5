"""`python -m harness.suites`: makes a suite of your own from a table of rows, and says what is wrong with one.

    python -m harness.suites new my_suite --from rows.csv --message question --reply answer --group customer
    python -m harness.suites check my_suite

`new` writes three things below the working directory: `suites/my_suite/` (rows, scorers, instructions and a card to
fill), `conf/suite/my_suite.yaml` and `conf/sweep/my_suite.yaml`. `python -m harness +sweep=my_suite` then finds them.

Exit codes: 0 made, or without a mistake, 2 a mistake in the command, the table or the suite, 70 a fault of the harness
itself, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.escaping import visible
from harness.suites.check import check
from harness.suites.new import EVALUATION_SHARE, SYSTEM, new
from harness.terminal import Arguments, ended, tell
from harness.wording import first, plural

SHOWN, ALIKE = 20, 3  # lines of one kind, and of those that may say the same of many rows


def _run(arguments: Sequence[str] | None) -> int:
    parser = Arguments(
        prog="python -m harness.suites", description="Make a suite of your own, or check one.",
        epilog=(__doc__ or "").split("\n\n")[-1],
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("new", help="make a suite from a CSV or JSONL file")
    make.add_argument("name", help="lower-case letters, digits and _")
    make.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help="a .csv, .tsv or .jsonl")
    for column, what in (
        ("message", "what is asked"), ("reply", "the reference answer"), ("group", "what belongs together (optional)"),
        ("case", "the kind of row (optional)"), ("id", "a unique name (optional)"),
    ):  # fmt: skip
        make.add_argument(f"--{column}", default=column, metavar="COLUMN", help=f"the column that holds {what}")
    make.add_argument("--eval-from", type=Path, metavar="FILE", help="evaluation rows in a file of their own")
    make.add_argument("--rows-only", action="store_true", help="write rows and labels alone of a suite that is there")
    make.add_argument("--eval-share", type=float, default=EVALUATION_SHARE, help="of the groups (default 0.3)")
    make.add_argument("--system", help=f"the system message (default: that of all chats in FILE, or {SYSTEM!r})")
    look = commands.add_parser("check", help="say all that is wrong with a suite (this runs its scorers.py)")
    look.add_argument("name")
    given = parser.parse_args(arguments)
    try:
        if given.command == "new":
            names = {k: getattr(given, k) for k in ("message", "reply", "group", "case", "id")}
            share, system = given.eval_share, given.system
            told = new(given.name, given.source, names, share, system, Path(), given.eval_from, given.rows_only)
            print(visible("\n".join(told)))
            return 0
        mistakes, warnings, facts = check(given.name)
    except UserError as error:
        raise UserError(first(SHOWN, error.mistakes)) from error
    tell(first(SHOWN, mistakes), "mistake: ")
    tell(first(SHOWN, [line for alike in warnings for line in first(ALIKE, alike, " such")]), "warning: ")
    print(visible("\n".join(facts)))
    counts = plural(len(mistakes), "mistake"), plural(sum(map(len, warnings)), "warning")
    print(visible(f"{given.name}: {', '.join(counts)}"))
    return 2 if mistakes else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return ended(lambda: _run(arguments))


if __name__ == "__main__":
    sys.exit(main())
