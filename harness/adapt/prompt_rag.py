"""Prompt + RAG: no training. The instructions, a few worked examples and the retrieved articles do the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.models.hub import link_tree
from harness.prompt import Recipe, describe
from harness.retrieval import Searching
from harness.types import Context, Json, SuiteData


@dataclass(frozen=True, slots=True)
class PromptRag(Searching):
    """`few_shot` training rows are shown as examples; `top_k` articles are retrieved by `retrieval` (`bm25`,
    `dense`, `hybrid` or `none`)."""

    few_shot: int = 2
    top_k: int = 2

    LEAST: ClassVar[Mapping[str, int]] = {"few_shot": 0, **Searching.LEAST}
    VERSION: ClassVar[int] = 5
    SEEDED: ClassVar[bool] = False
    LIBRARIES: ClassVar[tuple[str, ...]] = ("bm25s",)

    def unfit(self, data: SuiteData) -> str | None:
        """Why the rows of a suite are too few for this, or its articles cannot be searched so, or None."""
        if 0 < len(data.train) < self.few_shot:
            return f"few_shot={self.few_shot}: {data.name} has {len(data.train)} training rows to show"
        return Searching.unfit(self, data)

    def __call__(self, base: Path, data: SuiteData, out: Path, context: Context) -> Mapping[str, Json]:
        link_tree(base, out)
        examples = tuple((r[data.message_field], r[data.reply_field]) for r in data.train[: self.few_shot])
        system = f"{data.system}\n\n{data.instructions}"
        recipe = Recipe(system, examples, data.knowledge, self.retrieval, self.top_k, data.asked)
        recipe.save(out)
        return {"trained_parameters": 0, "prompt": describe(recipe)}
