"""Loads a shipped suite's scorers and rows, as lm-eval does."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from harness.resources import resource

FOLDER = resource("suites")


def scorers_of(folder: Path) -> Any:
    """A suite's `scorers.py` as a module."""
    spec = importlib.util.spec_from_file_location(f"scorers_{folder.name}", folder / "scorers.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scorers(name: str) -> Any:
    return scorers_of(FOLDER / name)


def rows(name: str, file: str) -> list[dict[str, Any]]:
    text = (FOLDER / name / f"{file}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]
