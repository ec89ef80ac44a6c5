"""What cells do under load, how many answers would fit, and what a LoRA beside its base costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.report.text import NONE, told
from harness.runs import Run
from harness.types import Json
from harness.wording import number, plural


def under_load(run: Run) -> dict[str, Any]:
    """Closed loops of so many clients, and the highest rate of an open loop that held the service level."""
    loops = sorted(
        {int(m.metric.split("/")[0][7:]) for r in run.ok for m in r.measurements if m.metric[:7] == "closed_"}
    )
    parts = (("ttft_ms/p95", "first token p95"), ("itl_ms/p95", "between tokens p95"), ("tokens_per_s", "throughput"))
    columns = [(f"closed_{n}/{part}", f"{plural(n, 'client')}: {what}") for n in loops for part, what in parts]
    if any(r.value("goodput_requests_per_s") for r in run.ok):
        columns.append(("goodput_requests_per_s", "Goodput"))
    lines = []
    for r in run.ok:
        if any(r.value(metric) for metric, _ in columns):
            values = [told(r.value(metric)) for metric, _ in columns]
            if (failed := r.value("goodput_failed_at")) and columns[-1][0] == "goodput_requests_per_s":
                values[-1] = {**values[-1], "interval": f"not at {number(failed.value, failed.unit)}"}
            lines.append({"name": run.names[r.id], "values": values})
    latency: Mapping[str, Json] = next((r.params("measure")["latency"] for r in run.ok), {})
    level = latency.get("level")
    return {
        "columns": [c for _, c in columns], "rows": lines, "clients": bool(loops),
        "level": level_text(level) if level else "",
        "requests": latency.get("open_requests", 0), "tokens": latency.get("output_tokens", 0),
        "places": sorted({int(m.value) for r in run.ok if (m := r.value("open/places"))}),
        "own_ends": any(r.value("open/tokens/mean") and "quality" not in r.not_measured for r in run.ok),
    }  # fmt: skip


def level_text(level: Mapping[str, Json]) -> str:
    """A service level in words."""
    within = f"within {level['ttft_ms']:g} ms and tokens at most {level['token_ms']:g} ms apart on average"
    return f"{100 * level['share']:g}% of the requests have the first token {within}"


def adapters(run: Run) -> list[str]:
    """What serving a LoRA beside its base costs, a sentence or three a cell."""
    found = []
    for r in run.ok:
        names = ("bytes", "load_ms", "swap_ms", "step_ms/beside", "step_ms/merged", "batch_step_ms/each")
        values = [r.value(f"adapter/{n}") for n in (*names, "batch_step_ms/one")]
        if None in values:
            continue
        one, load, swap, beside, merged, each, same = (number(m.value, m.unit) for m in values if m)
        count = r.value("adapter/count")
        found.append(
            f"{run.names[r.id]}: an adapter takes {one}; one more is loaded in {load} and another chosen in {swap}. "
            f"A token takes {beside} with the adapter beside its base and {merged} merged. Of "
            f"{count.value if count else 0:.0f} rows with an adapter each, a step takes {each}, and {same} where all "
            "have one (transformers with PEFT)."
        )
    return found


def rooms(run: Run) -> dict[str, Any]:
    """How many rows are predicted to fit into memories of different sizes, of so many tokens each."""
    sizes = sorted(
        {int(m.metric[15:-2]) for r in run.ok for m in r.measurements if m.metric.startswith("predicted_rows/")}
    )
    lines, tokens = [], 0
    for r in run.ok:
        found = [r.value(f"predicted_rows/{size}GB") for size in sizes]
        kv = r.value("kv_bytes_per_token")
        if kv and (first := next((m for m in found if m), None)):
            tokens = max(tokens, first.n)
            counts = [NONE if m is None else f"{m.value:,.0f}" if m.value else "does not fit" for m in found]
            lines.append({"name": run.names[r.id], "kv": number(kv.value, "bytes"), "counts": counts})
    return {"sizes": sizes, "rows": lines, "tokens": tokens}
