"""A team's own table, and the commands that make a suite of it."""

from __future__ import annotations

import csv
import json
import random
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.suites.__main__ import main as command

LABELS = ("billing", "sales", "help")


def table(n: int = 120) -> Path:
    """A CSV of questions and answers in columns of the team's own names."""
    path = Path("rows.csv")
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["ticket", "answer", "customer"])
        for i in range(n):
            words = random.Random(i).choices(string.ascii_lowercase, k=40)
            writer.writerow([f"{''.join(words)}, what of it?", f"Answer {i}: do that.", f"customer {i // 3}"])
    return path


def main(arguments: Sequence[str]) -> int:
    """The command line; after `new`, the instructions are written, as a user is told to."""
    code = command(arguments)
    if arguments[0] == "new" and code == 0:
        guide = Path("suites") / arguments[1] / "instructions.md"
        guide.write_text(guide.read_text(encoding="utf-8").replace("TO FILL: say", "Say"), encoding="utf-8")
    return code


NAMES = ("--message", "ticket", "--reply", "answer", "--group", "customer")


def lines(rows: Iterable[Mapping[str, object]]) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows_of(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The training and the evaluation rows of a suite that `new` made."""
    texts = (Path(f"suites/{name}/{side}.jsonl").read_text(encoding="utf-8") for side in ("train", "eval"))
    train, held = ([json.loads(line) for line in text.splitlines()] for text in texts)
    return train, held
