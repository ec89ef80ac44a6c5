"""Supervised fine-tuning on completions, shared by LoRA and full fine-tuning: transformers' Trainer and one loss.

A classification head is trained the same way: its class is the one token of the reply, from a vocabulary of classes.

The loss is computed at the positions of the reply only. With a vocabulary of 49,152, logits for the prompt too
would cost most of the memory of a small model: on one CPU core this took LoRA from 51 to 88 tokens a second and
from 8.3 to 2.0 GB, against TRL's SFTTrainer at the same batch (see DECISIONS.md).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from harness.anatomy import below_adapters, beside_text
from harness.directory import attention_of, came_quantized, classifies
from harness.environment import give_memory_back
from harness.errors import BrokenArtifact, UserError
from harness.lengths import demand_context, demand_room
from harness.loading import context_tokens, demand_fit
from harness.prompt import (
    IGNORED,
    Prompter,
    Recipe,
    describe,
    encode,
    encode_class,
    padding,
    short_chat,
    stops,
    unlearnable,
)
from harness.retrieval import Searching
from harness.store import write_json
from harness.types import Context, Json, SuiteData

SHAPE_STEP = 32  # tokens
HEAD = "score."  # as transformers' decoders call a classification head
WARM_UP, FEW = 2, 20  # updates that warm up, of which the first moves nothing: none where there are few


@dataclass(frozen=True, slots=True)
class Training(Searching):
    """An adaptation that trains. `patience` epochs without a better validation loss end it."""

    learning_rate: float = 1e-4
    epochs: int = 3
    batch_size: int = 8
    patience: int = 1

    LEAST: ClassVar[Mapping[str, int]] = {"epochs": 1, "batch_size": 1, "patience": 1, **Searching.LEAST}

    def __post_init__(self) -> None:
        Searching.__post_init__(self)  # super() knows no class with slots
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate}: must be above 0 and finite")

    def unable(self, config: Mapping[str, Json]) -> str | None:
        """Why a model of this configuration cannot be trained so, or None."""
        told = "the checkpoint is a classifier: adaptation=prompt_rag or as_is only, or take the model it was made from"
        return came_quantized(config) or (told if classifies(config) else None)


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model with its tokenizer and prompt recipe, and what the manifest should say of it."""

    model: Any
    tokenizer: Any
    recipe: Recipe
    facts: Mapping[str, Json]


def collate(pad: int, most: int | None, rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Any]:
    """Rows padded on the right to the longest, and to a multiple of `SHAPE_STEP`, or the `most` that their model reads:
    on a CPU each new length left memory behind, 50 MB a step of eight rows."""
    import torch

    width = -(-max(len(r["input_ids"]) for r in rows) // SHAPE_STEP) * SHAPE_STEP
    width = min(width, most or width)

    def padded(values: list[int], filler: int) -> list[int]:
        return values + [filler] * (width - len(values))

    return {
        "input_ids": torch.tensor([padded(r["input_ids"], pad) for r in rows]),
        "labels": torch.tensor([padded(r["labels"], IGNORED) for r in rows]),
        "attention_mask": torch.tensor([padded([1] * len(r["input_ids"]), 0) for r in rows]),
    }


def completion_loss(model: Any, inputs: Mapping[str, Any], items: Any = None) -> Any:
    """Cross-entropy at the labelled positions, summed over them and divided by `items` (None: their mean).

    Logits are computed at those positions alone, from the hidden states, by the language head or, in a classifier, by
    the classification head (`score`, as transformers' decoders call it).
    """
    from torch.nn.functional import cross_entropy

    base = below_adapters(model)
    hidden = base.get_decoder()(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).last_hidden_state
    labels = inputs["labels"][:, 1:]
    kept = labels != IGNORED
    head = base.get_output_embeddings() or base.score
    logits = head(hidden[:, :-1][kept]).float()
    total = cross_entropy(logits, labels[kept], reduction="sum")
    return total / (kept.sum() if items is None else items)


def _agrees(model: Any, batch: Mapping[str, Any]) -> bool:
    """Whether `completion_loss` is this model's own loss: some scale or cap their logits after the head."""
    import torch

    with torch.no_grad():
        own = model(**batch, use_cache=False).loss
        return bool(torch.isclose(own.float(), completion_loss(model, batch), rtol=2e-3))


def _sums(model: Any) -> list[float]:
    """The sum of each weight that is trained, by which it is seen whether any changed."""
    import torch

    return [float(p.detach().sum(dtype=torch.float64)) for p in model.parameters() if p.requires_grad]


def untrained(base: Path, classes: Sequence[str], dtype: Any, pad: int) -> Any:
    """The base model as it generates, or with a new classification head over `classes`, which pads with `pad`.

    Raises `BrokenArtifact` where other weights are missing: transformers would draw them.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    options = {"dtype": dtype, "output_loading_info": True, **attention_of(base)}
    if not classes:
        model, info = AutoModelForCausalLM.from_pretrained(str(base), **options)
        demand_fit(info)
        return model
    names = dict(enumerate(classes))
    model, info = AutoModelForSequenceClassification.from_pretrained(
        str(base), num_labels=len(names), id2label=names, label2id={n: i for i, n in names.items()}, pad_token_id=pad,
        **options,
    )  # fmt: skip
    below = {name for name in info["missing_keys"] if not name.startswith(HEAD)}
    demand_fit({**info, "missing_keys": below, "unexpected_keys": ()})  # such as the language head
    return model


def _tokenizer(base: Path) -> Any:
    """The tokenizer of a model directory; with its end of text for a padding token that the model has no embedding of,
    as where one was added to the tokenizer alone."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(base))
    known = AutoConfig.from_pretrained(str(base)).get_text_config(decoder=True).vocab_size
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= known:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_replies(tokenizer: Any, data: SuiteData) -> None:
    """Raises `UserError` that names the first row whose reply a model would not learn as it stands, or where nothing
    would teach it to end one."""
    if not stops(None, tokenizer):
        raise UserError(
            f"{data.name}: the model's tokenizer names no token that ends a text; set eos_token in its "
            "tokenizer_config.json"
        )
    faults = [
        f"row {row.get('id')}: {why}"
        for row in (*data.train, *data.validation)
        if (why := unlearnable(tokenizer, short_chat(data, row), row[data.reply_field]))
    ]
    if faults:
        raise UserError(faults[0] + (f" (such rows: {len(faults):,})" if len(faults) > 1 else ""))


def _arguments(knobs: Training, rows: int, checkpoints: Path, context: Context, mixed: bool) -> Any:
    """How transformers' Trainer is to train on so many rows, in bfloat16 where `mixed`."""
    from transformers import TrainingArguments

    pairs = 2 - knobs.batch_size % 2  # at once on a CPU: more rows hold more memory than they save time
    micro = pairs if context.device == "cpu" else knobs.batch_size
    several = knobs.epochs > 1
    updates = knobs.epochs * math.ceil(rows / knobs.batch_size)
    arguments = TrainingArguments(
        output_dir=str(checkpoints), num_train_epochs=knobs.epochs, learning_rate=knobs.learning_rate,
        per_device_train_batch_size=micro, per_device_eval_batch_size=max(micro, 4),
        gradient_accumulation_steps=knobs.batch_size // micro, lr_scheduler_type="cosine",
        warmup_steps=0 if updates < FEW else WARM_UP, weight_decay=0.0, optim="adamw_torch_fused",
        seed=context.seed, use_cpu=context.device == "cpu", bf16=mixed,
        gradient_checkpointing=False, logging_steps=1, logging_nan_inf_filter=False, eval_strategy="epoch",
        save_strategy="epoch" if several else "no", save_total_limit=1, save_only_model=True,
        load_best_model_at_end=several, metric_for_best_model="eval_loss", prediction_loss_only=True,
        remove_unused_columns=False, report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    _ = arguments.device  # counts the machine's GPUs, once
    arguments._n_gpu = 1  # one device trains: what Trainer would wrap the model in for several knows no decoder
    return arguments


def train(
    base: Path, data: SuiteData, checkpoints: Path, context: Context, knobs: Training,
    adapted: Callable[[Any], Any] | None, classes: Sequence[str] = (),
) -> Trained:  # fmt: skip
    """Fine-tunes on the training rows, watches the validation rows after each epoch, and keeps the best epoch: what
    `adapted` puts around or into the model, or all of it that reads and writes text. With `classes`, which hold each
    row's reply, a classification head answers instead of the language head.

    Raises `UserError` for a reply that would be learnt in part or otherwise, `DoesNotFit` for a row, be it one to be
    asked, that is longer than the model's context, and `BrokenArtifact` where weights are missing, the loss is no
    number or no weight changed.
    """
    import torch
    from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, set_seed

    set_seed(context.seed)
    tokenizer = _tokenizer(base)
    recipe = Recipe(data.system, (), data.knowledge, knobs.retrieval, knobs.top_k, data.asked)
    prompter = Prompter(recipe)
    pad = padding(tokenizer)
    if not classes:
        check_replies(tokenizer, data)

    def encoded(row: Mapping[str, Any]) -> dict[str, list[int]]:
        chat, reply = prompter(row[data.message_field]), row[data.reply_field]
        return encode_class(tokenizer, chat, classes.index(reply)) if classes else encode(tokenizer, chat, reply)

    def rows(split: Sequence[Mapping[str, Any]]) -> list[dict[str, list[int]]]:
        return [encoded(row) for row in split]

    fit, validation = rows(data.train), rows(data.validation)
    mixed = context.device == "cuda" or context.dtype == "bfloat16"
    # weights that are trained stay in float32, small updates would be lost in 16 bits; frozen ones only compute
    dtype = torch.bfloat16 if mixed and adapted else torch.float32
    model = untrained(base, classes, dtype, pad)
    read = [made["input_ids"] for made in (*fit, *validation)]
    demand_context(model.config, tokenizer, (*data.train, *data.validation), read)
    demand_room(model, tokenizer, prompter, data, 0 if classes else data.max_new_tokens)
    model = model.to(context.device)
    for weight in beside_text(model):
        weight.requires_grad_(False)
    if adapted:
        model = adapted(model)
        for weight in model.parameters():
            weight.data = weight.data.float() if weight.requires_grad else weight.data  # a new head too
    batched = partial(collate, pad, context_tokens(model.config))
    first = {k: v.to(context.device) for k, v in batched(fit[:1]).items()}
    own_loss = not classes and not _agrees(model, first)

    class CompletionTrainer(Trainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if own_loss:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            with self.accelerator.autocast():  # it stands around model.forward alone, which this loss goes past
                loss = completion_loss(model, inputs, num_items_in_batch)
            return (loss, {}) if return_outputs else loss

    class Told(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            context.progress(state.global_step / max(state.max_steps, 1), f"epoch {state.epoch:.1f}")
            give_memory_back()

    trainer = CompletionTrainer(
        model=model, args=_arguments(knobs, len(fit), checkpoints, context, mixed),
        train_dataset=fit, eval_dataset=validation, data_collator=batched,
        callbacks=[Told(), *([EarlyStoppingCallback(knobs.patience)] if knobs.epochs > 1 else [])],
    )  # fmt: skip
    before = _sums(model)
    trainer.train()
    shutil.rmtree(checkpoints, ignore_errors=True)
    curve = [
        {"step": h["step"], "epoch": round(h["epoch"], 3), **{k: h[k] for k in ("loss", "eval_loss") if k in h}}
        for h in trainer.state.log_history
        if "loss" in h or "eval_loss" in h
    ]
    if not all(math.isfinite(point.get("loss", point.get("eval_loss", 0.0))) for point in curve):
        raise BrokenArtifact("the training loss is not a number; lower adaptation.learning_rate")
    if _sums(model) == before:
        raise BrokenArtifact("training changed no weight for the better; change adaptation.learning_rate")
    facts = {
        "rows": len(fit), "validation_rows": len(validation), "tokens": sum(len(r["input_ids"]) for r in fit),
        "epochs_run": round(trainer.state.epoch or 0, 2), "loss_curve": curve,
        "loss": "own" if own_loss else "completion",
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "prompt": describe(recipe), **({"classes": len(classes)} if classes else {}),
    }  # fmt: skip
    return Trained(model, tokenizer, recipe, facts)


def finish(model: Any, trained: Trained, out: Path) -> Mapping[str, Json]:
    """Writes the model directory with its prompt recipe. Its generation config names what ends a reply, so that whoever
    serves it stops there: in the file, as transformers saves one that was changed only if it finds nothing odd in it,
    and published ones hold a `temperature` without `do_sample`, which some servers take."""
    import torch

    model.to(torch.float32).save_pretrained(str(out))
    generation = out / "generation_config.json"
    if generation.exists():
        ends = sorted(stops(model.generation_config, trained.tokenizer))
        write_json(generation, {**json.loads(generation.read_text(encoding="utf-8")), "eos_token_id": ends})
    trained.tokenizer.save_pretrained(str(out))
    trained.recipe.save(out)
    return trained.facts
