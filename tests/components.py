"""Components with odd needs, chosen through `--config-dir tests/conf`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.types import Context, Json


@dataclass(frozen=True, slots=True)
class NeedsMissing:
    """Wants a library that no machine has."""

    REQUIRES: ClassVar[tuple[str, ...]] = ("not_installed_library",)

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        raise AssertionError("a component without its library was run")
