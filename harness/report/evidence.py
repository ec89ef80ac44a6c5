"""What lets a reader trust or doubt the numbers: leakage, proofs, what failed, and how it was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from harness.decide import fullest, is_quantized, memory, parent_of
from harness.report.doubts import scores_without
from harness.report.text import NONE, facts_text, shorten, told
from harness.runs import Run, model_name
from harness.types import Json, RunRecord, StepKind
from harness.wording import duration, plural, share, size

DRIFTED = 1.1  # times as long in one round as in another
BOUNDED = {"p95": 72, "p50": 6}  # requests with one beyond it in 39 of 40 runs: 0.95**72 and 0.5**6 are below 2.5%
LISTED = 20  # overlapping pairs, the rest stands in leakage.json
SEEN = (("training", "training rows"), ("validation", "validation rows"), ("articles", "articles"))
DIGESTS = 3  # told of one kind: parts of a learning curve have their own
QUOTED = 300  # characters of a card
NOT_STATED = "not stated"


def data_card(run: Run, suite: str, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """A line for what builds see, for the evaluation rows, and for each base model."""
    cells = [r for r in run.records.values() if r.suite == suite]
    counts = found["rows"]
    source, licence = (shorten(found.get(k) or NOT_STATED, most=QUOTED) for k in ("source", "licence"))
    seen = ", ".join(f"{n:,} {what}" for k, what in SEEN if isinstance(n := counts.get(k), int))
    lines = [
        _line("What builds see", seen, source, licence, (r.digest_of("adapt", "data") for r in cells)),
        _line("Evaluation rows, with their scorers", f"{counts['evaluation']:,} rows", source, licence,
              (r.digest_of("quality", "rows") for r in cells)),
    ]  # fmt: skip
    bases: dict[tuple[str, str, str], list[str]] = {}
    for r in (r for r in cells if "base" in r.steps):
        facts: Mapping[str, Json] = r.steps["base"].get("facts") or {}
        source, licence = (shorten(facts.get(k) or NOT_STATED, most=QUOTED) for k in ("source", "licence"))
        bases.setdefault((model_name(r), source, licence), []).append(str(r.steps["base"].get("key", "")))
    return [*lines, *(_line(f"Base model {n}", "", s, li, keys) for (n, s, li), keys in bases.items())]


def _line(what: str, rows: str, source: str, licence: str, digests: Iterable[str]) -> dict[str, str]:
    own = sorted({d for d in digests if d})
    more = f" and {len(own) - DIGESTS} more" if len(own) > DIGESTS else ""
    digest = ", ".join(own[:DIGESTS]) + more
    return {"what": what, "rows": rows or NONE, "source": source, "licence": licence, "digest": digest or NONE}


def leakage(run: Run) -> list[dict[str, Any]]:
    """Overlaps of evaluation rows with what builds saw, by suite; where rows are flagged, shares without them."""
    made = []
    for suite, found in run.leakage.items():
        flagged = {o["row"] for o in found["overlaps"]}
        same = {o["row"] for o in found["overlaps"] if o["kind"] != "near"}
        alike = {o["row"] for o in found["overlaps"] if o["kind"] == "near"}
        asked, stop_nothing = plural(found["rows"]["evaluation"], "evaluation row"), "which are told and stop nothing."
        if found["mode"] == "drop":  # and near copies are looked for in what was left
            what = (
                f"{len(same)} of {asked} had the message or group of training rows, or the text of articles, which "
                f"were all left out of what builds saw (leakage=drop). Near copies of what was left: {len(alike)}, "
                f"{stop_nothing}"
            )
        else:
            what = (
                f"{len(flagged)} of {asked} overlap with what builds saw (leakage={found['mode']}): {len(same)} by the "
                f"same message or group, {len(alike - same)} only as near copies, {stop_nothing}"
            )
        kinds = Counter((o["source"], o["kind"]) for o in found["overlaps"])
        sources = dict.fromkeys(("training", "knowledge base", *(source for source, _ in kinds)))
        cells = []
        for r in run.ok:
            shares = r.suite == suite and (m := run.quality(r)) and m.unit == "share"
            all_, rest = scores_without(run, r, flagged) if flagged and shares else ([], [])
            if rest:
                cells.append(
                    {"name": run.names[r.id], "all": share(sum(all_) / len(all_)),
                     "without": share(sum(rest) / len(rest)), "n": len(all_), "left": len(rest)}
                )  # fmt: skip
        made.append(
            {
                "suite": suite, "card": data_card(run, suite, found), "rows": found["rows"],
                "mode": found["mode"], "cells": cells, "flagged": len(flagged),
                "told": what,
                "counts": [
                    {"source": source, **{k: kinds[source, k] for k in ("exact", "group", "near")}}
                    for source in sources
                ],
                "pairs": found["overlaps"][:LISTED], "more": max(0, len(found["overlaps"]) - LISTED),
            }
        )  # fmt: skip
    return made


def proofs(run: Run) -> list[dict[str, str]]:
    """What shows that each quantization took: what runs, and its size against the unquantized parent."""
    lines = []
    for r in run.ok:
        facts = r.steps.get("quantize", {}).get("facts", {})
        parent, classes = parent_of(r, run.ok) if is_quantized(r) else r, _classes(r)
        replaced, whole = facts.get("replaced_modules"), sum(classes.values())
        if replaced is None and classes and parent and parent is not r:  # a library packed it, and counted nothing
            replaced = sum(n for kind, n in classes.items() if kind not in _classes(parent))
        lines.append(
            {
                "name": run.names[r.id],
                "classes": ", ".join(f"{n} × {kind}" for kind, n in classes.items()) or NONE,
                "replaced": NONE if replaced is None else f"{replaced:,}" + (f" of {whole:,}" if whole else ""),
                "disk": against_parent(r, parent, "disk_bytes"), "weights": against_parent(r, parent, "weights_bytes"),
                "perplexity": told(r.value("fidelity/perplexity_ratio"))["text"],
                "agreement": told(r.value("fidelity/token_agreement"))["text"],
                "facts": facts_text(
                    {**facts, **_decoding(r)},
                    ("linear_classes", "replaced_modules", "left_modules", "weights_disk_bytes"),
                ),
            }
        )  # fmt: skip
    return lines


def _classes(r: RunRecord) -> Mapping[str, int]:
    """What runs as linear layers, and how many of each, as the first step of a cell says that tells it."""
    facts = (step.get("facts") or {} for step in (r.steps.get("quantize", {}), *r.steps.values()))
    return next((f["linear_classes"] for f in facts if f.get("linear_classes")), {})


def _decoding(r: RunRecord) -> dict[str, str]:
    """How the steps of a timed cell were launched, and what attended in them, where its engine says so."""
    facts = r.steps.get("latency", {}).get("facts") or {}
    named = {"decoded": "how", "attention of one token": "attention"}
    return {name: facts[key] for name, key in named.items() if facts.get(key)}


def noisy(records: Iterable[RunRecord], names: Mapping[str, str]) -> list[str]:
    """The cells timed beside other work or on a machine that did not hold still, each with what its latency steps say
    of why."""
    found = []
    for r in (r for r in records if (m := r.value("noisy")) and m.value):
        facts = [(step.get("facts") or {}).get("noise") for kind, step in r.steps.items() if kind.startswith("latency")]
        reasons = ", ".join(str(line) for why in facts if isinstance(why, list) for line in why)
        found.append(f"{names[r.id]} ({reasons or 'no reason kept'})")
    return found


def against_parent(r: RunRecord, parent: RunRecord | None, metric: str) -> str:
    """A size, and what share of the unquantized parent's it is."""
    mine, whole = r.value(metric), parent.value(metric) if parent else None
    if mine is None:
        return NONE
    if r is parent or whole is None or not whole.value:
        return size(mine.value)
    return f"{size(mine.value)} ({100 * mine.value / whole.value:.0f}%)"


def not_measured(run: Run) -> list[dict[str, str]]:
    """What has no number and why, cells of the same reason together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for r in run.ok:
        for metric, why in r.not_measured.items():
            groups.setdefault((metric, why), []).append(run.names[r.id])
    every = f"{'both' if len(run.ok) == 2 else f'all {len(run.ok)}'} cells that ended ok"
    return [
        {
            "metric": m,
            "why": why,
            "cells": every if 1 < len(c) == len(run.ok) else ", ".join(c),
        }
        for (m, why), c in groups.items()
    ]


def steps(run: Run) -> list[dict[str, Any]]:
    """Every step once with its key: what was built, how long it took, how many cells share it."""
    found: dict[str, dict[str, Any]] = {}
    for r in run.records.values():
        for kind, step in r.steps.items():
            what = {
                "kernels": "4-bit products", "base": r.model, "adapt": r.adaptation,
            }.get(kind, f"{run.names[r.id]}")  # fmt: skip
            entry = {
                "kind": kind, "what": what, "key": step.get("key", NONE), "seconds": duration(step.get("seconds") or 0),
                "bytes": size(step["bytes"]) if step.get("bytes") else NONE, "shared": step.get("shared_by", 1),
            }  # fmt: skip
            found.setdefault(f"{kind} {step.get('key')}", entry)
    order = [str(k) for k in StepKind]
    return sorted(found.values(), key=lambda s: order.index(s["kind"].split(" ")[0]))


def unbounded(run: Run) -> str:
    """What is said of times of so few requests that nothing bounds them; empty where all have enough."""
    timed = [m for r in run.ok for m in r.measurements if m.unit == "ms"]
    least = {q: min((m.n for m in timed if m.metric.endswith(f"/{q}")), default=n) for q, n in BOUNDED.items()}
    said = {
        "p95": "has no upper bound: its interval ends at the slowest seen, and the true one may be higher",
        "p50": "has no bounds: its interval goes from the fastest seen to the slowest",
    }
    found = [
        f"A {q} of fewer than {BOUNDED[q]} different requests, here as few as {n}, {said[q]}."
        for q, n in least.items() if n < BOUNDED[q]
    ]  # fmt: skip
    return " ".join([*found, *(["Of one there is no interval."] if 1 in least.values() else [])])


def caveats(run: Run) -> list[str]:
    """What a reader must know before taking a number elsewhere; each only where it holds for this run."""
    found: list[str] = []
    every = list(run.records.values())
    for r in every:
        env = r.environment
        if env.get("device") == "cpu":
            found.append(
                f"Computed in {env.get('dtype', 'an unknown dtype')} on a CPU ({env.get('hardware', 'unknown')}). "
                "Ratios between cells can be different, even reversed, on a GPU."
            )
        suite = r.params("suite")
        if "eval_file" in suite and suite["eval_file"] is None:
            found.append(
                f"Evaluation rows are those of lm-eval's task {suite.get('task')}: whether training saw them was not "
                "looked for. Time, memory and cost are of the suite's own validation messages, not of that task's "
                "prompts, and do not compare with hosted prices."
            )
        if note := r.params("model").get("note"):
            found.append(f"About {model_name(r)}: {note}")
        if price := r.config.get("price"):
            paying = run.policy.volume_requests or price.get("volume_requests", 0)
            found.append(
                f"Cost is priced at ${price.get('usd_per_hour')} an hour for {price.get('hardware')} "
                f"({price.get('source')}, {price.get('date')}), with building spread over "
                f"{paying:,.0f} requests; times are from {env.get('hardware', 'other hardware')}."
            )
        if r.value("memory_bytes/peak_rss"):
            found.append("Peak memory is that of the whole process: weights, Python and its libraries.")
    loads = [(loading.value, r) for r in run.ok if (loading := r.value("memory_bytes/peak_rss_loading"))]
    if more := [(most, r) for most, r in loads if (m := memory(r)) and most > m.value]:
        most, r = max(more, key=lambda pair: pair[0])
        found.append(
            f"Peak memory is while answering. Loading took more in {plural(len(more), 'cell')} of {len(loads)}, up to "
            f"{size(most)} ({run.names[r.id]}): that is of this loader, and no limit counts it."
        )
    if held := sorted({m.n for r in run.ok if (m := memory(r))}):
        first = f"{', '.join(map(str, held[:-1]))} rows at once in some cells, of {held[-1]} in others"
        rows = first if len(held) > 1 else f"{plural(held[0], 'row')} at once"
        found.append(f"Peak memory is of {rows}{f' ({full})' if (full := fullest(run.ok)) else ''}.")
    one_step = [r for r in run.ok if "itl_ms" in r.not_measured]
    if one_step and len(one_step) < len(run.ok):
        generating = [r for r in run.ok if r not in one_step]
        timed = sorted({r.params("measure")["latency"]["output_tokens"] for r in generating})
        own = [m.value for r in generating if (m := r.value("output_tokens/mean"))]
        apart = " to ".join(dict.fromkeys(f"{n:.1f}" for n in (min(own), max(own)))) if own else ""
        ends = any(r.value("e2e_natural_ms/p50") for r in generating)
        found.append(
            "A classification head answers in one step. The timed answers of the cells that generate have "
            f"{', '.join(map(str, timed))} tokens whatever they would say"
            + (f", and their own {apart}, which cost counts" if own else "")
            + (": “to its own end” times those." if ends else ": compare response times with that in mind.")
        )
    if few := unbounded(run):
        found.append(few)
    hows: dict[str, list[str]] = {}
    for r in run.ok:
        if how := _decoding(r).get("decoded"):
            hows.setdefault(how, []).append(run.names[r.id])
    if len(hows) > 1:
        kinds = "; ".join(f"{how} ({', '.join(names)})" for how, names in hows.items())
        found.append(f"Steps were not launched alike, so these cells' speeds do not compare: {kinds}.")
    if bound := [run.names[r.id] for r in run.ok if (m := r.value("host_bound")) and m.value]:
        found.append(
            f"Host-bound: {', '.join(bound)}. A step takes about as long for a batch as for one row and over three "
            "times the least that the hardware allows, so its time goes into starting work and not into doing it: its "
            "speed, and a cost by it, are this model's on this machine and say nothing of the method."
        )
    if drifted := [run.names[r.id] for r in run.ok if (m := r.value("round_drift")) and m.value > DRIFTED]:
        found.append(
            f"The machine changed its pace while cells were timed: {', '.join(drifted)} took over {DRIFTED - 1:.0%} "
            "longer in one round than in another. All rounds are pooled."
        )
    if disturbed := noisy(run.ok, run.names):
        found.append(
            f"Timed beside other work, or on a machine that did not hold still: {'; '.join(disturbed)}. These cells' "
            "times are not the method's alone: time them again on a quiet machine (runner.time_again=true) before "
            "comparing them."
        )
    if len({r.seed for r in every}) == 1 and any(r.adaptation not in ("prompt_rag",) for r in run.ok):
        found.append("One seed a cell: the luck of training is not in the intervals, which cover the choice of rows.")
    found += [
        f"Cells were measured with different {field}: differences between them may come from that."
        for field in ("hardware", "dtype", "versions")
        if len({str(r.environment.get(field)) for r in every}) > 1
    ]
    if len({str(r.config.get("policy")) for r in every}) > 1:
        found.append("Records name different policies; the first one's was applied.")
    return list(dict.fromkeys(found))


def configs(run: Run) -> list[tuple[str, str]]:
    """The settings of the run, each different one once."""
    found: dict[tuple[str, str], str] = {}
    for r in run.records.values():
        for group, value in r.config.items():
            name = str(value.get("name", "")) if isinstance(value, Mapping) else str(value)
            inner = value.get("params", value) if isinstance(value, Mapping) else {}
            settings = {k: v for k, v in inner.items() if k != "name"} if isinstance(inner, Mapping) else {}
            text = ", ".join(f"{k}: {v}" for k, v in settings.items())
            found.setdefault((f"{group} = {name}", text), group)
    order = {group: n for n, group in enumerate(dict.fromkeys(found.values()))}
    return sorted(found, key=lambda key: order[found[key]])
