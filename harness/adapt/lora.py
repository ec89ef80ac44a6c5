"""LoRA (Hu et al., arXiv 2106.09685) by PEFT: small matrices beside every linear layer are trained, then merged.

With `classify`, a classification head is trained along (PEFT's `modules_to_save`) and answers in the place of the
language head: one forward pass names the class, and no other answer is possible.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.adapt import training
from harness.anatomy import beside_text, linear_class
from harness.prompt import padding
from harness.types import Context, Json, SuiteData

ADAPTER = "adapter"


def merge(base: Path, adapter: Path, classes: Sequence[str], pad: int) -> Any:
    """The base model with the adapter in its weights, in float32 from the weights as stored, so that the merge rounds
    nothing that training did not round. The head over `classes`, if any, is the adapter's."""
    import torch
    from peft import PeftModel

    whole = training.untrained(base, classes, torch.float32, pad)
    return PeftModel.from_pretrained(whole, str(adapter)).merge_and_unload()


def targets(model: Any) -> str:
    """What PEFT is to adapt: all linear layers, or an expression for those that read and write text where others see or
    hear, which would be counted, and never trained."""
    if not beside_text(model):
        return "all-linear"
    decoder = model.get_decoder()
    (path,) = (name for name, part in model.named_modules() if part is decoder)
    kinds = {name.rpartition(".")[2] for name, part in decoder.named_modules() if linear_class(part)}
    return rf"{re.escape(path)}\.(.*\.)?({'|'.join(sorted(kinds))})"


def classes_in(data: SuiteData) -> tuple[str, ...]:
    """The different replies of the training and validation rows, sorted."""
    return tuple(sorted({r[data.reply_field] for r in (*data.train, *data.validation)}))


def _no_head(model_type: str) -> str | None:
    """Why no classification head can stand on models of this type, or None."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as HEADS

    return None if model_type in HEADS else f"transformers has no classification head for {model_type}"


@dataclass(frozen=True, slots=True)
class Lora(training.Training):
    """Rank `rank`, scale `alpha`/`rank`, on all linear layers that text goes through: in a mixture of experts not on
    the experts, which transformers keeps as tensors of many. The learning rate is about ten times that of full
    fine-tuning (Schulman et al., "LoRA Without Regret", 2025). The merged weights are what is quantized and served; the
    adapter stays beside them in `adapter/`. `classify` trains a classification head over the replies that occur, for
    suites whose replies are names of classes."""

    learning_rate: float = 1e-3
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    classify: bool = False

    LEAST: ClassVar[Mapping[str, int]] = {"rank": 1, "alpha": 1, **training.Training.LEAST}
    VERSION: ClassVar[int] = 12
    GUIDED: ClassVar[bool] = False
    ADAPTER: ClassVar[bool] = True  # stays beside the merged weights
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "bm25s")

    def __post_init__(self) -> None:
        training.Training.__post_init__(self)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: must be 0 or more and below 1")

    def unfit(self, data: SuiteData) -> str | None:
        """Why the rows of a suite cannot train this, or its articles not be searched so, or None."""
        rows, classes = len(data.train) + len(data.validation), len(classes_in(data))
        if self.classify and not 2 <= classes <= rows / 2:
            return f"the replies of {data.name} are no classes: {rows} training rows have {classes} different ones"
        return training.Training.unfit(self, data)

    def unable(self, config: Mapping[str, Json]) -> str | None:
        """Why a model of this configuration cannot be trained so, or None."""
        headless = _no_head(str(config.get("model_type"))) if self.classify else None
        return training.Training.unable(self, config) or headless

    def __call__(self, base: Path, data: SuiteData, out: Path, context: Context) -> Mapping[str, Json]:
        from peft import LoraConfig, get_peft_model

        def adapted(model: Any) -> Any:
            peft = LoraConfig(
                r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=targets(model),
                task_type="SEQ_CLS" if self.classify else "CAUSAL_LM",
            )  # fmt: skip
            return get_peft_model(model, peft)

        classes = classes_in(data) if self.classify else ()
        trained = training.train(base, data, out / "checkpoints", context, self, adapted, classes)
        trained.model.save_pretrained(str(out / ADAPTER))
        return training.finish(merge(base, out / ADAPTER, classes, padding(trained.tokenizer)), trained, out)
