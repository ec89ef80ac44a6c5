"""Latency, throughput and memory of one artifact on a machine that does nothing else meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from harness.measure import device_state, load, memory, roofline
from harness.measure.load import quantiles
from harness.prompt import load_prompter, render, shared_prefix
from harness.types import Context, Json, Measurement, Session, SuiteData

SETTLED = 1.10  # the slowest over the fastest of `WINDOW` warm-up requests
WINDOW = 3


def measure(
    session: Session, folder: Path, data: SuiteData, knobs: Mapping[str, Any], context: Context
) -> tuple[list[Measurement], dict[str, Json]]:
    """Times `requests` single prompts of `output_tokens` tokens each after a warm-up, then one batch of
    `batch_size` prompts: the reading of all prompts, and `batch_tokens` - 1 decode steps, whose median gives
    the throughput. `natural_requests` are timed to their natural end too, the first of the texts `ends` among them, up
    to the suite's limit of tokens. A prompt is one event however often it is asked, with all between its tokens. A
    classification head answers in one step and has nothing between tokens. Then comes `harness.measure.load`, with
    `own_ends` on answers that end by themselves. The prompts are those of `prompts_of`.
    The facts beside the measurements are what else the machine did from the warm-up to the last timed answer."""
    loading = memory.peak_of_loading(context.device)
    serves = load.server(session, knobs) is not None
    longest = data.max_new_tokens if serves and knobs.get("own_ends") else 0
    most = max(
        knobs["requests"], knobs["batch_size"], knobs["natural_requests"], knobs["open_requests"] if serves else 0
    )
    prompts = prompts_of(session, folder, data, most)
    encoded = [session.tokenizer(p, add_special_tokens=False).input_ids for p in prompts]
    asked = max(len(e) for e in encoded)
    loads = (*knobs["clients"], load.places_of(session) if knobs["open_requests"] else 0) if serves else ()
    rows = max(knobs["batch_size"], 1, *loads)
    if slots := getattr(session, "slots", None):  # as many as will be asked for: larger ones capture every shape anew
        whole_answer = data.max_new_tokens if knobs["natural_requests"] else 0
        slots(rows, asked + max(knobs["output_tokens"], knobs["batch_tokens"], whole_answer, longest), largest=True)
    warm = warm_up(session, prompts, knobs)
    memory.peak_of_loading(context.device)  # the warm-up's counts for nothing
    watch = device_state.start(context.device)
    first, between, whole = [], [], []
    for done, prompt in enumerate(prompts[: knobs["requests"]]):
        context.progress(done / (knobs["requests"] + 1), f"request {done + 1} of {knobs['requests']}")
        times = [1e3 * t for t in session.time_tokens(prompt, knobs["output_tokens"])]
        first.append(times[0])
        between += [b - a for a, b in pairwise(times)]
        whole.append(times[-1])
    natural = partial(session.time_tokens, natural=True, ends=knobs.get("ends", ()))
    ends = [1e3 * natural(p, data.max_new_tokens)[-1] for p in prompts[: knobs["natural_requests"]]]
    batch, tokens = prompts[: knobs["batch_size"]], knobs["batch_tokens"]
    context.progress(0.9, f"batch of {len(batch)}")
    if context.device == "cuda":
        session.time_batch(batch, 2)  # the first batch of a shape picks its kernels
    prefill, *steps = session.time_batch(batch, tokens)
    apart, own = (len({*prompts[: knobs[of]]}) for of in ("requests", "natural_requests"))
    measured = [
        *quantiles("ttft_ms", first, events=apart),
        *(quantiles("itl_ms", between, events=apart) if between else []),
        *quantiles("e2e_ms", whole, events=apart),
        *(quantiles("e2e_natural_ms", ends, events=own) if ends else []),
        *(_decoding(len(batch), steps) if steps else []),
        Measurement("batch_prefill_ms", 1e3 * prefill, "ms", "lower", len(batch)),
        Measurement("weights_bytes", float(session.loaded.proof["weights_bytes"]), "bytes", "lower", 1),
    ]
    later = knobs.get("round", 1) > 1
    measured += [] if later else load.measure(session, prompts, knobs, context.progress, longest)
    beside, facts = device_state.end(watch, unsettled(warm, knobs))
    measured += [*beside, Measurement("warmup_requests", float(len(warm)), "requests", "lower", 1)]
    if later:
        return measured, facts  # what follows is taken once
    have = slots(0, 0) if slots else None
    reads_once = getattr(session, "reads_once", lambda prompts: False)(batch)
    shared = shared_prefix(encoded[: len(batch)]) if reads_once else 0
    held = [*(len(e) - shared + len(steps) for e in encoded[: len(batch)]), *([shared] if shared else [])]
    if have:  # one more is for padding
        held = [have.capacity] * (have.rows + 1)
    row = None if session.loaded.classes else asked + data.max_new_tokens  # a head keeps no keys and values
    process = next((m.value for m in beside if m.metric == "memory_bytes/nvml_process"), None)
    at_once = have.rows if have else len(batch)
    measured += memory.measure(session.model, context.device, loading, at_once, held, row, process)
    measured += memory.apart(session, batch, min(tokens, 4), context.device)  # three steps hold what fifteen do
    if between and steps:
        each = [_held([e], knobs["output_tokens"]) for e in encoded[: knobs["requests"]]]
        alone = roofline.Step(1, fmean(each), median(between))
        together = roofline.Step(len(batch), _held(encoded[: len(batch)], tokens), 1e3 * median(steps))
        limits = roofline.measure(session.model, session.loaded.proof["weights_bytes"], context.device, alone, together)
        measured += limits
        far = {m.metric: m.value for m in limits}.get("times_limit")
        if far is not None and len(batch) > 1 and not reads_once:  # else flat is what such a batch may be
            slow = roofline.host_bound(far, alone.ms, together.ms)
            measured.append(Measurement("host_bound", float(slow), "flag", "lower", 1))
    return measured, facts


def warm_up(session: Session, prompts: Sequence[str], knobs: Mapping[str, Any]) -> list[float]:
    """Milliseconds of each of `warmup` requests and of as many more as it takes until three in a row are alike,
    `warmup_most` in all at most. The further ones repeat the last prompt, since others take other times."""
    took: list[float] = []
    least = knobs["warmup"]
    while least and (len(took) < least or (len(took) < knobs["warmup_most"] and not settled(took))):
        prompt = prompts[min(len(took), least - 1) % len(prompts)]
        took.append(1e3 * session.time_tokens(prompt, knobs["output_tokens"])[-1])
    return took


def settled(took: Sequence[float]) -> bool:
    """Whether the last three times are within a tenth of each other."""
    last = took[-WINDOW:]
    return len(last) == WINDOW and max(last) <= SETTLED * min(last)


def unsettled(took: Sequence[float], knobs: Mapping[str, Any]) -> str | None:
    """What to say of a warm-up that reached its limit without three times alike. Nothing where the limit leaves room
    for the first three of the same prompt alone, as in `profile=quick`: the coldest is among them."""
    if knobs["warmup_most"] < knobs["warmup"] + WINDOW or len(took) < WINDOW or settled(took):
        return None
    *others, last = (f"{t:,.1f}" for t in took[-WINDOW:])
    return f"{len(took)} warm-up requests did not settle: the last three took {', '.join(others)} and {last} ms"


def prompts_of(session: Session, folder: Path, data: SuiteData, count: int) -> list[str]:
    """Evaluation messages, or for a task that lm-eval brings along, which alone knows its rows, the suite's validation
    messages, under the artifact's own recipe, rendered; from the first again where there are too few."""
    prompter = load_prompter(folder)
    known = data.evaluation or data.validation
    rows = [known[i % len(known)] for i in range(count)]
    return [render(session.tokenizer, prompter(r[data.message_field])) for r in rows]


def _held(prompts: Sequence[list[int]], tokens: int) -> float:
    """Tokens in the caches of some prompts halfway to so many new ones each; what all begin with counts once."""
    shared = shared_prefix(prompts)
    return shared + sum(len(p) - shared + tokens / 2 for p in prompts)


def _decoding(rows: int, steps: list[float]) -> list[Measurement]:
    """The pace of a batch's decode steps, from their median."""
    step = median(steps)
    return [
        Measurement("throughput_tokens_per_s", rows / step, "tok/s", "higher", len(steps), None, tuple(steps)),
        Measurement("batch_step_ms", 1e3 * step, "ms", "lower", len(steps)),
    ]
