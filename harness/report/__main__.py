"""Draws a run's report again from its records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.report.page import three_lines, write


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.report",
        description="Draw a run's report again from its records; nothing is measured.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as outputs/support_tone/2025-11-23")
    run = parser.parse_args(arguments).run
    try:
        page = write(run)
        print("\n".join([*three_lines(run), str(page)]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
