"""Assembles a cell's record from what its steps left in the store. Pure but for reading those files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from harness.decide import CostLine
from harness.decide.costs import BATCHED, BUILDS, owed_seconds, requests_per_second, serving_usd
from harness.environment import Environment
from harness.execute import read_measurements
from harness.measure.rounds import pooled
from harness.plan import Plan, only_rounded
from harness.store import Store
from harness.types import MEASURED, RECORD_SCHEMA, Cell, Json, Measurement, RunRecord, Status, Step, StepKind, plain

ONE_STEP = "a classification head answers in one step"
ONE_BATCH = (
    "what ran it answers one batch at a time; engine=graph serves clients side by side where the model allows it"
)
STOP_TEXTS = (
    "stop texts of the task, which lm-eval brings along, end scored answers, and timings were not told of them: times "
    "to the own end and the goodput are of longer answers, and costs are counted by full batches"
)
NO_ENDS = (
    "the task asks for the likeliest of given choices, and timings generate: times to the own end and the goodput are "
    "of text that is not scored, and costs are counted by full batches"
)
OWN_ENDS = {"e2e_natural_ms/p50", "goodput_requests_per_s"}  # which depend on where an answer ends
ROUNDED = "weights were rounded without calibration (calibration_rows: 0), for sizing only"
MACHINE = ("device", "cpu_count", "threads")  # on which a step ran: what its seconds are worth


def finished(cell: Cell, plan: Plan, done: set[str], failed: Mapping[str, str]) -> bool:
    """Whether nothing more will happen to a cell."""
    keys = plan.chains.get(cell.id, {}).values()
    return all(key in done or key in failed for key in keys)


def assemble(
    cell: Cell,
    plan: Plan,
    store: Store,
    failed: Mapping[str, str],
    environment: Environment,
    choices: Mapping[str, Json],
) -> RunRecord:
    """The record of a finished cell; `choices` holds policy, price and profile as run, `environment` is where it is
    assembled. The record names the machine that timed it, or where nothing was timed the one that scored it: another
    than this where it was taken over from a store that came from elsewhere."""
    chain = plan.chains.get(cell.id, {})
    manifests = {k: m for k, key in chain.items() if (m := _manifest(plan.steps[key], store))}
    # of an evicted build that another cell wanted again the facts still stand
    missed = {k: failed[key] for k, key in chain.items() if key in failed and k not in manifests}
    gone = [f"{plan.steps[key].kind}/{key}" for k, key in chain.items() if key not in failed and k not in manifests]
    # a later round adds to what the first found; the first alone takes memory, load and roofline, so it must stand
    spared = [k for k in missed if k.startswith(f"{StepKind.LATENCY} ") and StepKind.LATENCY in manifests]
    reasons = list(dict.fromkeys(why for k, why in missed.items() if k not in spared))
    reasons += [f"{name} is gone from the store; run again" for name in gone]
    measuring = next((manifests[k]["environment"] for k in reversed(MEASURED) if k in manifests), plain(environment))
    cannot = plan.unsupported.get(cell.id)
    status = Status.UNSUPPORTED if cannot else Status.FAILED if reasons else Status.OK
    not_measured: dict[str, str] = {}
    if status is Status.OK:
        not_measured |= {
            f"round {k.split()[1]}": f"{missed[k]}; the times are those of the other rounds" for k in spared
        }
    if status is Status.OK and StepKind.QUALITY not in chain:
        not_measured["quality"] = ROUNDED if only_rounded(cell) else "random weights: their answers mean nothing"
        not_measured["cost_usd_per_1000"] = "needs the length of real replies"
    found = _measurements(manifests, plan, chain, store, choices["price"], cell.measure.params["latency"]["batch_size"])
    measured = [m for m in found if math.isfinite(m.value)]
    not_measured |= {m.metric: f"came out as {m.value}" for m in found if m not in measured}
    if status is Status.OK and StepKind.LATENCY in chain and not any(m.metric.startswith("itl_ms") for m in measured):
        not_measured["itl_ms"] = ONE_STEP
    loads = [cell.measure.params["latency"][load] for load in ("clients", "open_requests")]
    asked = status is Status.OK and StepKind.LATENCY in chain and any(loads)
    if asked and not any(m.metric.startswith(("closed_", "open/")) for m in measured):
        not_measured["load"] = ONE_BATCH
    names = {m.metric for m in measured}
    timed = [plan.steps[key] for key in chain.values() if plan.steps[key].kind is StepKind.LATENCY]
    unaware = not any(step.component.params.get("ends") for step in timed)
    if unaware and "cut_share" in names and names & OWN_ENDS:
        not_measured["own ends"] = STOP_TEXTS
    none = any(m.metric == "output_tokens/mean" and m.value == 0 for m in measured)
    if none and names & OWN_ENDS and any(row["output"] for row in rows_of(cell, plan, store)):  # a choice, not silence
        not_measured["own ends"] = NO_ENDS
    if measuring["device"] != "cuda":
        not_measured["memory_bytes/cuda"] = "no CUDA device; peak resident memory of the process instead"
    return RunRecord(
        schema=RECORD_SCHEMA,
        id=cell.id,
        status=status,
        reason=cannot or "; ".join(reasons),
        model=cell.model.name,
        adaptation=cell.adaptation.name,
        quantization=cell.quantization.name,
        suite=cell.suite.name,
        seed=cell.seed,
        profile=str(choices["profile"]),
        measurements=tuple(measured),
        not_measured=not_measured,
        steps={
            str(k): {
                "key": m["key"], "preimage": m["preimage"], "seconds": m["seconds"], "bytes": m["bytes"],
                "facts": m["facts"], "shared_by": plan.shared_by(m["key"]), "created_unix": m["created_unix"],
                "cpu_seconds": m.get("cpu_seconds"),
                **{name: m["environment"][name] for name in MACHINE},
            }
            for k, m in manifests.items()
        },
        environment={k: v for k, v in measuring.items() if k != "threads"},
        config={**plain(cell), **choices},
    )  # fmt: skip


def _measurements(
    manifests: Mapping[str, Any],
    plan: Plan,
    chain: Mapping[str, str],
    store: Store,
    price: Mapping[str, Any],
    batch_size: int,
) -> list[Measurement]:
    found: list[Measurement] = []
    if StepKind.QUALITY in manifests:
        found += read_measurements(store.folder(plan.steps[chain[StepKind.QUALITY]]))
    rounds = [k for k in manifests if plan.steps[chain[k]].kind is StepKind.LATENCY]
    found += pooled([read_measurements(store.folder(plan.steps[chain[k]])) for k in rounds])
    if {*BUILDS} <= manifests.keys():
        builds = [manifests[k] for k in BUILDS]
        seconds = sum(m["seconds"] for m in builds)
        disk = manifests[StepKind.QUANTIZE]["facts"]["weights_disk_bytes"]
        found.append(Measurement("disk_bytes", float(disk), "bytes", "lower", 1))
        found.append(Measurement("build_seconds", seconds, "s", "lower", 1))
        rate = requests_per_second(found, batch_size)
        if rate:
            found.append(Measurement("throughput_requests_per_s", rate, "req/s", "higher", batch_size))
            owed = sum(owed_seconds({**m["environment"], **m}) for m in builds)
            serving = serving_usd(rate, price["usd_per_hour"], price["utilization"])
            line = CostLine(serving, owed * price["usd_per_hour"] / 3600, BATCHED)
            cost = line.usd_per_1000(price["volume_requests"])
            found.append(Measurement("cost_usd_per_1000", cost, "USD", "lower", batch_size))
    return found


def _manifest(step: Step, store: Store) -> Mapping[str, Any] | None:
    """The manifest of a step that stands: of a build, be its files evicted, and of a measurement that can be read."""
    return store.manifest(step) if step.kind not in MEASURED or store.is_whole(step) else None


def rows_of(cell: Cell, plan: Plan, store: Store) -> list[dict[str, Any]]:
    """The per-example rows that a cell's quality step left, or none."""
    key = plan.chains.get(cell.id, {}).get(StepKind.QUALITY)
    path = store.folder(plan.steps[key]) / "rows.jsonl" if key else None
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
