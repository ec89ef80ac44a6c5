"""Full fine-tuning: every weight is trained. Worth its price only where LoRA has levelled off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.adapt import training
from harness.types import Context, Json, SuiteData


@dataclass(frozen=True, slots=True)
class FullFt(training.Training):
    """The same data, prompt and early stopping as LoRA, with a learning rate of its own."""

    VERSION: ClassVar[int] = 10
    GUIDED: ClassVar[bool] = False
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "transformers", "bm25s")

    def __call__(self, base: Path, data: SuiteData, out: Path, context: Context) -> Mapping[str, Json]:
        trained = training.train(base, data, out / "checkpoints", context, self, None)
        return training.finish(trained.model, trained, out)
