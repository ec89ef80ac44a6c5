"""Latency, throughput and memory of one artifact on a machine that does nothing else meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from harness.measure import load, memory, roofline
from harness.measure.load import quantiles
from harness.prompt import load_prompter, render
from harness.types import Context, Measurement, Session, SuiteData


def measure(
    session: Session, folder: Path, data: SuiteData, knobs: Mapping[str, Any], context: Context
) -> list[Measurement]:
    """Times `requests` single prompts of `output_tokens` tokens each after `warmup` ones, then one batch of
    `batch_size` prompts: the reading of all prompts, and `batch_tokens` - 1 decode steps, whose median gives
    the throughput. `natural_requests` are timed to their natural end too, up to the suite's limit of tokens. A
    classification head answers in one step and has nothing between tokens. Then comes `harness.measure.load`. The
    prompts are evaluation messages under the artifact's own recipe."""
    most = max(knobs["requests"], knobs["batch_size"], knobs["natural_requests"])
    prompts = prompts_of(session, folder, data, most)
    for prompt in prompts[: knobs["warmup"]]:
        session.time_tokens(prompt, knobs["output_tokens"])
    loading = memory.peak_of_loading(context.device)
    first, between, whole = [], [], []
    for done, prompt in enumerate(prompts[: knobs["requests"]]):
        context.progress(done / (knobs["requests"] + 1), f"request {done + 1} of {knobs['requests']}")
        times = [1e3 * t for t in session.time_tokens(prompt, knobs["output_tokens"])]
        first.append(times[0])
        between += [b - a for a, b in pairwise(times)]
        whole.append(times[-1])
    ends = [1e3 * session.time_tokens(p, data.max_new_tokens, True)[-1] for p in prompts[: knobs["natural_requests"]]]
    batch, tokens = prompts[: knobs["batch_size"]], knobs["batch_tokens"]
    context.progress(0.9, f"batch of {len(batch)}")
    if context.device == "cuda":
        session.time_batch(batch, 2)  # the first batch of a shape picks its kernels
    prefill, *steps = session.time_batch(batch, tokens)
    measured = [
        *quantiles("ttft_ms", first),
        *(quantiles("itl_ms", between) if between else []),
        *quantiles("e2e_ms", whole),
        *(quantiles("e2e_natural_ms", ends) if ends else []),
        *(_decoding(len(batch), steps) if steps else []),
        Measurement("batch_prefill_ms", 1e3 * prefill, "ms", "lower", len(batch)),
        Measurement("weights_bytes", float(session.loaded.proof["weights_bytes"]), "bytes", "lower", 1),
    ]
    if knobs.get("round", 1) > 1:
        return measured  # what follows is taken once
    measured += load.measure(session, prompts, knobs, context.progress)
    room = max(len(session.tokenizer(p, add_special_tokens=False).input_ids) for p in batch) + data.max_new_tokens
    measured += memory.measure(session.model, context.device, loading, max(len(batch), *knobs["clients"], 0), room)
    if between and steps:
        alone = median(between)
        measured += roofline.measure(session.model, context.device, alone)
        slow = roofline.host_bound(measured[-1].value, alone, 1e3 * median(steps))
        measured.append(Measurement("host_bound", float(slow), "flag", "lower", 1))
    return measured


def prompts_of(session: Session, folder: Path, data: SuiteData, count: int) -> list[str]:
    """Evaluation messages under the artifact's own recipe, rendered; from the first again where there are too few."""
    prompter = load_prompter(folder)
    known = data.evaluation or data.validation  # the rows of lm-eval's own tasks are known to it alone
    rows = [known[i % len(known)] for i in range(count)]
    return [render(session.tokenizer, prompter(r[data.message_field])) for r in rows]


def _decoding(rows: int, steps: list[float]) -> list[Measurement]:
    """The pace of a batch's decode steps, from their median."""
    step = median(steps)
    return [
        Measurement("throughput_tokens_per_s", rows / step, "tok/s", "higher", len(steps), None, tuple(steps)),
        Measurement("batch_step_ms", 1e3 * step, "ms", "lower", len(steps)),
    ]
