"""Counts what a quantizer replaced, so that a method that silently did nothing fails the cell."""

from __future__ import annotations

from typing import Any

from harness.errors import BrokenArtifact
from harness.types import Json


def replaced(model: Any, name: str) -> dict[str, Json]:
    """How many linear modules are now of a class whose name contains `name`, and how many were left.

    Raises `BrokenArtifact` where none is.
    """
    from harness.anatomy import linear_classes

    counts = linear_classes(model)
    done = sum(n for kind, n in counts.items() if name in kind)
    if not done:
        raise BrokenArtifact(f"no linear layer became {name}: {counts}")
    return {"replaced_modules": done, "left_modules": sum(counts.values()) - done, "linear_classes": counts}
