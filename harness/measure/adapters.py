"""What it costs to serve a LoRA as an adapter beside its base, and not merged into it: one base then serves many."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from harness.environment import settle
from harness.loading import Loaded
from harness.types import Measurement, Session

STEPS = 8  # of a batch whose rows have an adapter each


def measure(
    base: Loaded,
    adapter: Path,
    merged: Session,
    session_of: Callable[[Loaded], Session],
    prompts: Sequence[str],
    knobs: Mapping[str, Any],
) -> list[Measurement]:
    """Loads the adapter `knobs["adapters"]` times onto the base (which is used up), as so many adapters of one size.

    Gives the bytes of one, the milliseconds to load one more from disk and to change to another, the milliseconds
    between tokens with the adapter merged and beside the base (the same prompts by turns, `session_of` being the
    engine of the merged one), and a decode step of as many rows as there are adapters by transformers' own forward
    pass, where all rows have one adapter and where each has its own (PEFT's `adapter_names`).
    """
    from peft import PeftModel

    device = base.model.device.type
    names = [f"adapter_{n}" for n in range(knobs["adapters"])]
    options = {"autocast_adapter_dtype": False}  # in the base's dtype, as a server holds them
    whole = PeftModel.from_pretrained(base.model, str(adapter), adapter_name=names[0], **options).eval()
    loads = [_timed(device, partial(whole.load_adapter, str(adapter), adapter_name=n, **options)) for n in names[1:]]
    swaps = [_timed(device, partial(whole.set_adapter, n)) for n in [*names, *names]]
    held = sum(p.numel() * p.element_size() for name, p in whole.named_parameters() if f".{names[0]}." in name)
    beside = session_of(replace(base, model=whole.get_base_model()))
    steps: dict[str, list[float]] = {"merged": [], "beside": []}
    for prompt in prompts[: knobs["requests"]]:
        for name, session in (("merged", merged), ("beside", beside)):
            times = session.time_tokens(prompt, knobs["output_tokens"])
            steps[name] += [1e3 * (b - a) for a, b in pairwise(times)]
    one, each = _rows(whole, base.tokenizer, prompts[0], names)
    found = {"load_ms": loads, "swap_ms": swaps, "step_ms/merged": steps["merged"], "step_ms/beside": steps["beside"]}
    found |= {"batch_step_ms/one": one, "batch_step_ms/each": each}
    return [
        Measurement("adapter/bytes", float(held), "bytes", "lower", 1),
        Measurement("adapter/count", float(len(names)), "adapters", "higher", 1),
        *(Measurement(f"adapter/{k}", median(v), "ms", "lower", len(v), None, tuple(v)) for k, v in found.items() if v),
    ]


def _timed(device: str, work: Callable[[], Any]) -> float:
    settle(device)
    start = time.perf_counter()
    work()
    settle(device)
    return 1e3 * (time.perf_counter() - start)


def _rows(whole: Any, tokenizer: Any, prompt: str, names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Milliseconds of decode steps of a row an adapter: by turns one adapter for all rows, and each its own."""
    import torch

    device = whole.device.type
    ids = tokenizer([prompt] * len(names), add_special_tokens=False, return_tensors="pt").input_ids.to(whole.device)
    one, each = [], []
    whole.set_adapter(names[0])
    with torch.inference_mode():
        cache = whole(ids, use_cache=True, logits_to_keep=1).past_key_values
        token = ids[:, -1:]

        def step(**options: Any) -> None:
            whole(token, past_key_values=cache, use_cache=True, **options)

        for _ in range(STEPS + 1):
            one.append(_timed(device, step))
            each.append(_timed(device, partial(step, adapter_names=list(names))))
    return one[1:], each[1:]  # the first of a kind warms up
