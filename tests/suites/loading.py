"""Loads a shipped suite's scorers and rows, as lm-eval does."""

from __future__ import annotations

import json
from typing import Any

from harness.resources import resource
from harness.suites.check import scorers_of

FOLDER = resource("suites")


def scorers(name: str) -> Any:
    return scorers_of(FOLDER / name)


def rows(name: str, file: str) -> list[dict[str, Any]]:
    text = (FOLDER / name / f"{file}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]
