"""Dollars per 1,000 requests: serving at a measured rate, and what is done once, spread over a volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.decide.findings import CostLine, HostedLine
from harness.decide.policy import COST
from harness.statistics import share_of_mean
from harness.types import Measurement, RunRecord, Status

BATCHED, GOODPUT = "batched", "goodput"
BUILDS = ("base", "adapt", "quantize")
NORMAL_95 = 1.96


def serving_usd(rate: float, usd_per_hour: float, utilization: float) -> float:
    """US dollars that 1,000 requests cost at `rate` a second on hardware at this price, at work for such a share of the
    time: `1000 * usd_per_hour / 3600 / (rate * utilization)`."""
    return 1000 * usd_per_hour / 3600 / (rate * utilization)


def requests_per_second(measured: Sequence[Measurement], batch_size: int) -> float | None:
    """The rate of full batches of replies of the mean length seen on the suite: `batch / (prefill + steps * step)`,
    with prefill and step as timed for a batch. The prefill makes the first token and each step one more, up to the stop
    token where a reply ends by itself, which is not counted in its length. A classification head has no step. None
    where something was not measured and is needed."""
    found = {m.metric: m.value for m in measured}
    if not {"batch_prefill_ms", "output_tokens/mean"} <= found.keys():
        return None
    tokens, prefill = found["output_tokens/mean"], found["batch_prefill_ms"]
    if "batch_step_ms" not in found:
        return 1e3 * batch_size / prefill if tokens <= 1 else None
    ended = 1 - found.get("truncated_share", 0.0)
    return 1e3 * batch_size / (prefill + max(tokens + ended - 1, 0) * found["batch_step_ms"])


def goodput(record: RunRecord, level: Mapping[str, float] | None) -> float | None:
    """The highest rate that meets the service level (any, where none is asked for), of answers as long as they are: 0
    where no rate tried met it, None where it was not measured. Where all answers are cut to one length, as of random
    weights, or go on past what ends those that are scored (the stop texts of a task), the rate is no price's."""
    latency = record.config.get("measure", {}).get("params", {}).get("latency") or {}
    found = record.value("goodput_requests_per_s")
    same = level is None or {k: float(v) for k, v in level.items()} == {
        k: float(v) for k, v in (latency.get("level") or {}).items()
    }
    if found is None or not same or COST in record.not_measured or "own ends" in record.not_measured:
        return None
    return found.value if record.value("open/tokens/mean") or found.value == 0 else None


def cost_line(record: RunRecord, basis: str) -> CostLine | None:
    """What one cell costs at the price that its record names; None where no rate was measured or no price was set."""
    price: Mapping[str, Any] = record.config.get("price") or {}
    hourly, utilization = price.get("usd_per_hour"), price.get("utilization", 1.0)
    if not hourly:
        return None
    seconds = sum(owed_seconds({**record.environment, **record.steps[k]}) for k in BUILDS if k in record.steps)
    building = seconds * hourly / 3600
    rate = record.value("goodput_requests_per_s" if basis == GOODPUT else "throughput_requests_per_s")
    if rate is None or rate.value <= 0:
        return None
    serving = serving_usd(rate.value, hourly, utilization)
    labelling = (price.get("usd_per_labelled_row") or 0.0) * labelled_rows(record)
    prompt, output = record.value("prompt_tokens/mean"), record.value("output_tokens/mean")
    spread = 0.0
    if (steps := record.value("throughput_tokens_per_s")) and len(steps.samples) > 2:
        spread = share_of_mean(steps.samples)
    if basis == GOODPUT and (failed := record.value("goodput_failed_at")):
        spread = max(spread, failed.value / rate.value - 1)  # a goodput is known to lie between these two
    return CostLine(
        serving, building + labelling, basis, prompt.value if prompt else None, output.value if output else None,
        labelling, spread,
    )  # fmt: skip


def labelled_rows(record: RunRecord) -> int:
    """Rows that people had to label: those trained on and those held out of training to validate it, or the examples
    that a prompt shows."""
    facts = record.steps.get("adapt", {}).get("facts") or {}
    found = [facts.get("rows"), facts.get("validation_rows")]
    found = found if found[0] else [(facts.get("prompt") or {}).get("examples")]
    return int(sum(n for n in found if isinstance(n, int | float)))


def owed_seconds(build: Mapping[str, Any]) -> float:
    """Seconds of a whole machine that a build of so many `seconds` pays for: on a CPU it ran beside others, on
    `threads` of the `cpu_count` cores of the machine that built it, or for more `cpu_seconds` (GPTQ and AWQ have
    workers of their own). How steps share a GPU is not known, so each pays for it whole; so does one of which this was
    not kept."""
    seconds, cores, threads = build.get("seconds") or 0.0, build.get("cpu_count"), build.get("threads")
    if build.get("device") != "cpu" or not (threads and cores):
        return float(seconds)
    return float(min(max(threads * seconds, build.get("cpu_seconds") or 0.0) / cores, seconds))


def combined(lines: Sequence[tuple[float, CostLine]]) -> CostLine:
    """The lines of a recipe's suites as one, by the weights of the suites, taken as shares of the requests: serving and
    tokens are weighted means, and each suite's building is paid for."""
    total = sum(w for w, _ in lines)

    def mean(values: Sequence[float | None]) -> float | None:
        known = [(w / total) * v for (w, _), v in zip(lines, values, strict=True) if v is not None]
        return sum(known) if len(known) == len(lines) else None

    first = lines[0][1]
    return CostLine(
        mean([c.serving_usd_per_1000 for _, c in lines]) or 0.0, sum(c.once_usd for _, c in lines), first.basis,
        mean([c.prompt_tokens for _, c in lines]), mean([c.output_tokens for _, c in lines]),
        sum(c.labelling_usd for _, c in lines), max(c.spread for _, c in lines),
    )  # fmt: skip


def over_seeds(lines: Sequence[CostLine]) -> CostLine:
    """The lines of cells that differ in their seed alone as one: means, known no better than the seeds agree."""
    if len(lines) == 1:
        return lines[0]
    whole, n = combined([(1.0, c) for c in lines]), len(lines)
    spread = max(whole.spread, share_of_mean([c.serving_usd_per_1000 for c in lines]))
    return replace(whole, once_usd=whole.once_usd / n, labelling_usd=whole.labelling_usd / n, spread=spread)


def break_even(line: CostLine, other: CostLine) -> float | None:
    """From how many requests on a cell is no dearer than another, or than a fixed price, of which nothing is done once;
    None where it never is."""
    saved, dearer = other.serving_usd_per_1000 - line.serving_usd_per_1000, line.once_usd - other.once_usd
    if saved <= 0:
        return None if dearer > 0 or saved < 0 else 0.0
    return max(1000 * dearer / saved, 0.0)


def hosted_lines(
    records: Sequence[RunRecord], asked: CostLine | None, costs: Mapping[str, CostLine]
) -> tuple[HostedLine, ...]:
    """What hosted APIs ask for requests like those of the cell `asked`: its mean prompt and reply, counted with its own
    tokenizer. Nothing where prompts were not counted, are not those that costs are of (a task of lm-eval's own), or the
    records name no hosted prices."""
    table: Mapping[str, Any] = next(
        (h for r in records if r.status is Status.OK and (h := (r.config.get("price") or {}).get("hosted"))), {}
    )
    others = any(r.params("suite").get("eval_file", "") is None for r in records)
    if others or asked is None or asked.prompt_tokens is None or asked.output_tokens is None:
        return ()
    found = []
    for name, row in table.items():
        tokens = (
            asked.prompt_tokens * row["usd_per_million_input"] + asked.output_tokens * row["usd_per_million_output"]
        )
        usd = tokens / 1000
        even = {i: break_even(line, CostLine(usd, 0.0, "hosted")) for i, line in costs.items()}
        found.append(HostedLine(str(row.get("name", name)), usd, str(row["date"]), str(row["source"]), even))
    return tuple(found)
