"""Nothing: a checkpoint that is adapted already, such as the one that a release gate is asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.models.hub import link_tree
from harness.prompt import RECIPE, Recipe, describe, load_recipe
from harness.retrieval import Searching
from harness.types import Context, Json, SuiteData


@dataclass(frozen=True, slots=True)
class AsIs(Searching):
    """The recipe beside the weights (`prompt.json`) is kept; without one a message stands alone after the suite's
    system text, with `top_k` articles retrieved by `retrieval` (`bm25`, `dense`, `hybrid` or `none`)."""

    VERSION: ClassVar[int] = 5
    SEEDED: ClassVar[bool] = False
    GUIDED: ClassVar[bool] = False
    LIBRARIES: ClassVar[tuple[str, ...]] = ("bm25s",)

    def __call__(self, base: Path, data: SuiteData, out: Path, context: Context) -> Mapping[str, Json]:
        link_tree(base, out)
        kept = (out / RECIPE).exists()
        recipe = (
            load_recipe(out)
            if kept
            else Recipe(data.system, (), data.knowledge, self.retrieval, self.top_k, data.asked)
        )
        recipe.save(out)
        return {"trained_parameters": 0, "prompt": describe(recipe), "recipe": "kept" if kept else "the suite's"}
