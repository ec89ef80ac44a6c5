"""Full fine-tuning: every weight is trained. Worth its price only where LoRA has levelled off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.adapt import training
from harness.loading import came_quantized
from harness.retrieval import Searching
from harness.types import Context, Json, SuiteData


@dataclass(frozen=True, slots=True)
class FullFt(Searching):
    """The same data, prompt and early stopping as LoRA, with a learning rate of its own."""

    learning_rate: float = 1e-4
    epochs: int = 3
    batch_size: int = 8
    patience: int = 1

    VERSION: ClassVar[int] = 9
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "transformers", "bm25s")

    def __post_init__(self) -> None:
        training.check(self)

    def unable(self, config: Mapping[str, Json]) -> str | None:
        """Why a model of this configuration cannot be trained, or None."""
        return came_quantized(config)

    def __call__(self, base: Path, data: SuiteData, out: Path, context: Context) -> Mapping[str, Json]:
        trained = training.train(base, data, out / "checkpoints", context, training.Knobs.of(self), None)
        return training.finish(trained.model, trained, out)
