"""Compares runs cell by cell: the same rows, paired, for quality; ratios for what a machine was timed at.

Runs of different suites or evaluation rows measure different things and are refused. Runs of different hardware are
refused unless the caller wants them anyway, and then only their quality is compared.

    python -m harness.report RUN_A RUN_B [...]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import ledger
from harness.decide import Rows, decide, policy_of, primary
from harness.errors import UserError
from harness.report.markdown import plain_markdown
from harness.report.text import shorten, visible
from harness.resources import resource
from harness.statistics import Paired, group_of, holm, paired, quantile_ratio
from harness.types import Interval, Json, RunRecord, Status, canonical, is_side
from harness.wording import labels, number, points, significant

Row = Mapping[str, Any]
SHOWN_FLIPS = 5  # of each cell; the rest stands in rows/
SHOWN_P = 0.05
TIMED = (
    ("ttft_ms", 0.5, "First token p50"), ("itl_ms", 0.5, "Between tokens p50"),
    ("e2e_ms", 0.5, "Whole answer p50"), ("e2e_ms", 0.95, "Whole answer p95"),
)  # fmt: skip
SPEED, COST, QUALITY, TOLD, REFUSED = "speed", "cost", "quality", "told", "refused"  # what a difference has to do with
LEFT_OUT = {
    SPEED: "response times, throughput, memory and cost are left out", COST: "cost is left out",
    QUALITY: "quality and answer length are left out",
}  # fmt: skip
SIZED = (
    ("throughput_tokens_per_s", "Throughput, batched", (SPEED,)),
    ("goodput_requests_per_s", "Goodput", (SPEED, QUALITY)),
    ("memory_bytes/cuda_peak_reserved", "Peak memory, GPU", (SPEED,)),
    ("memory_bytes/peak_rss", "Peak memory, process", (SPEED,)), ("disk_bytes", "On disk", ()),
    ("cost_usd_per_1000", "Cost per 1,000, full batches", (SPEED, COST, QUALITY)),
    ("output_tokens/mean", "Answer length", (QUALITY,)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as read; `name` is what it is called beside the others, `pending` are the cells that left no record
    yet. Cells beside the grid are left away."""

    folder: Path
    name: str
    records: Mapping[str, RunRecord]
    rows: Mapping[str, Sequence[Row]]
    pending: tuple[str, ...] = ()

    @property
    def ok(self) -> dict[str, RunRecord]:
        """The cells with numbers."""
        return {i: r for i, r in self.records.items() if r.status is Status.OK}


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which a run differs from the first. `effect` is what follows: such runs are `refused`, what is in
    `LEFT_OUT` is left out, or it is only `told`."""

    field: str
    run: str
    was: str
    now: str
    effect: str

    @property
    def told(self) -> str:
        """The difference in words."""
        return f"{self.field}: {self.was} in the first run, {self.now} in {self.run}"


@dataclass(frozen=True, slots=True)
class Change:
    """A cell in a later run against the same cell in the first. `pair` is None where there are no scored rows in both;
    `prompts` is how many rows were asked in other words; `ratios` are (title, then, now, ratio, its interval)."""

    cell: str
    run: str
    pair: Paired | None
    p_holm: float
    prompts: int
    ratios: tuple[tuple[str, str, str, float, Interval | None], ...]
    flips: tuple[dict[str, Any], ...]

    @property
    def verdict(self) -> str:
        """What the rows show."""
        if self.pair is None:
            return "not compared"
        if self.p_holm >= SHOWN_P:
            return "not told apart"
        return "better" if self.pair.delta > 0 else "worse"


def read(folders: Sequence[Path]) -> list[Run]:
    """The runs, named as shortly as tells them apart. Raises `UserError` for one that cannot be read, or is given
    twice."""
    if len({f.resolve() for f in folders}) < len(folders):
        raise UserError("the same run is given twice; give different run folders")
    short = [f.resolve().name for f in folders]
    names = short if len(set(short)) == len(short) else ["/".join(f.resolve().parts[-2:]) for f in folders]
    names = names if len(set(names)) == len(names) else [str(f) for f in folders]
    runs: list[Run] = []
    mistakes: list[str] = []
    for folder, name in zip(folders, names, strict=True):
        try:
            records = {r.id: r for r in ledger.read_records(folder) if not is_side(r.id)}
            rows = {i: ledger.read_rows(folder, r) for i, r in records.items()}
            pending = tuple(i for i in ledger.read_cells(folder) if not is_side(i) and i not in records)
            runs.append(Run(folder, name, records, rows, pending))
        except UserError as error:
            mistakes += error.mistakes
    if mistakes:
        raise UserError(mistakes)
    return runs


def rows_digest(record: RunRecord, rows: Sequence[Row]) -> str:
    """What tells one set of evaluation rows from another: the digest of rows and scorers that a record keeps, and for
    records from before it did, that of the rows themselves. Empty where nothing was evaluated."""
    if kept := record.digest_of("quality", "rows"):
        return kept
    asked = sorted([str(r["id"]), str(r.get("message") or r["prompt_hash"])] for r in rows)
    text = canonical(asked).encode("utf-8", "backslashreplace")  # half of a surrogate pair is no UTF-8
    return f"of ids and messages {hashlib.sha256(text).hexdigest()[:16]}" if asked else ""


def timing(record: RunRecord) -> str:
    """The knobs that a latency follows from."""
    knobs: Mapping[str, Json] = record.config.get("measure", {}).get("params", {}).get("latency", {})
    named = ("output_tokens", "batch_size", "batch_tokens")
    return ", ".join(f"{k} {knobs[k]}" for k in named if k in knobs)


def price_of(record: RunRecord) -> str:
    """The prices that a cost follows from."""
    price: Mapping[str, Json] = record.config.get("price") or {}
    return ", ".join(f"{k} {price[k]}" for k in ("usd_per_hour", "volume_requests", "utilization") if k in price)


def _fields(record: RunRecord) -> dict[str, tuple[str, str]]:
    """What a comparison depends on: field -> (value, what follows when it differs)."""
    env, config = record.environment, record.config
    engine = config.get("engine", {})
    versions: Mapping[str, str] = env.get("versions", {})
    return {
        "suite": (record.suite, REFUSED),
        "deciding score": (primary(record, None), REFUSED),
        "device": (str(env.get("device")), SPEED),
        "hardware": (str(env.get("hardware")), SPEED),
        "timed requests": (timing(record), SPEED),
        "price": (price_of(record), COST),
        "dtype": (str(env.get("dtype")), TOLD),
        "engine": (f"{engine.get('name')} {canonical(engine.get('params', {}))}", TOLD),
        "profile": (record.profile, TOLD),
        **{f"{name}": (version, TOLD) for name, version in versions.items()},
    }


def differences(first: Run, later: Run) -> list[Difference]:
    """Every field in which cells of both runs differ, each once."""
    found: dict[Difference, None] = {}
    for i in [i for i in first.ok if i in later.ok]:
        was, now = _fields(first.ok[i]), _fields(later.ok[i])
        for name in dict.fromkeys([*was, *now]):
            (a, effect), (b, _) = was.get(name, ("none", TOLD)), now.get(name, ("none", TOLD))
            if a != b:
                found[Difference(name, later.name, a, b, effect)] = None
        a, b = rows_digest(first.ok[i], first.rows[i]), rows_digest(later.ok[i], later.rows[i])
        if a and b and a.startswith("of") != b.startswith("of"):  # one is of a version that kept no digest
            bare = [replace(r, steps={}) for r in (first.ok[i], later.ok[i])]
            a, b = rows_digest(bare[0], first.rows[i]), rows_digest(bare[1], later.rows[i])
        if not a or not b:
            was_known, now_known = ("known" if d else "unknown, as none were kept" for d in (a, b))
            found[Difference("evaluation rows", later.name, was_known, now_known, QUALITY)] = None
        elif a != b:
            found[Difference("evaluation rows", later.name, f"digest {a}", f"digest {b}", REFUSED)] = None
    return list(found)


def comparable(runs: Sequence[Run], anyway: bool) -> list[Difference]:
    """The differences between runs that may be compared. Raises `UserError` with every field that forbids it."""
    first, *others = runs
    found: list[Difference] = []
    mistakes = []
    for run in others:
        if not set(first.records) & set(run.records):
            mistakes.append(f"{run.folder}: no cell of {first.folder} is in it; compare runs of one sweep")
        found += differences(first, run)
    mistakes += [f"{d.told}; such runs cannot be compared" for d in found if d.effect == REFUSED]
    places = [d for d in found if d.field in ("device", "hardware")]
    if places and not anyway:
        mistakes += [f"{d.told}; --anyway compares their quality and leaves speed, memory and cost out" for d in places]
    if mistakes:
        raise UserError(list(dict.fromkeys(mistakes)))
    return found


def _scored(rows: Sequence[Row], score: str) -> dict[str, Row]:
    return {str(r["id"]): r for r in rows if isinstance(v := r["scores"].get(score), int | float) and 0 <= v <= 1}


def _pair(was: Mapping[str, Row], now: Mapping[str, Row], score: str) -> Paired | None:
    """The later answers against the first, on the rows of both."""
    shared = [i for i in was if i in now]
    if not shared:
        return None
    left, right = ([float(rows[i]["scores"][score]) for i in shared] for rows in (now, was))
    return paired(left, right, [group_of(was[i]) for i in shared])


def _flips(was: Mapping[str, Row], now: Mapping[str, Row], score: str) -> list[dict[str, Any]]:
    """The rows whose score changed, lost ones first."""
    moved = [(i, now[i]["scores"][score] - was[i]["scores"][score]) for i in was if i in now]
    return [
        {"id": i, "what": "lost" if d < 0 else "gained", "was": shorten(was[i]["output"]),
         "now": shorten(now[i]["output"]), "message": shorten(was[i].get("message") or was[i]["prompt"], True)}
        for i, d in sorted(moved, key=lambda m: (m[1], m[0])) if d
    ]  # fmt: skip


def _ratios(a: RunRecord, b: RunRecord, out: set[str]) -> list[tuple[str, str, str, float, Interval | None]]:
    """What `b` takes against `a`, but for what is left out."""
    found: list[tuple[str, str, str, float, Interval | None]] = []
    for metric, q, title in TIMED if SPEED not in out else ():
        was, now = a.value(f"{metric}/p{100 * q:.0f}"), b.value(f"{metric}/p{100 * q:.0f}")
        raw = [m.samples if (m := r.value(f"{metric}/p50")) else () for r in (a, b)]  # p50 keeps the samples of both
        if was and now and all(raw):
            ratio, around = quantile_ratio(raw[1], raw[0], q)
            found.append((title, number(was.value, was.unit), number(now.value, now.unit), ratio, around))
    for metric, title, depends in SIZED:
        was, now = a.value(metric), b.value(metric)
        if was and now and was.value > 0 and not out & set(depends):
            found.append((title, number(was.value, was.unit), number(now.value, now.unit), now.value / was.value, None))
    return found


def changes(runs: Sequence[Run], found: Sequence[Difference]) -> list[Change]:
    """Every cell that ended ok in the first run and in a later one, Holm-corrected over all of them."""
    first, *others = runs
    made = []
    for run in others:
        out = {d.effect for d in found if d.run == run.name}
        for i, r in first.ok.items():
            if i not in run.ok:
                continue
            score = primary(r, None)
            was, now = _scored(first.rows[i], score), _scored(run.rows[i], score)
            other = sum(was[k].get("prompt_hash") != now[k].get("prompt_hash") for k in was if k in now)
            made.append(
                Change(i, run.name, _pair(was, now, score), 1.0, other, tuple(_ratios(r, run.ok[i], out)),
                       tuple(_flips(was, now, score)))
            )  # fmt: skip
    adjusted = holm({str(n): c.pair.p for n, c in enumerate(made) if c.pair})
    return [replace(c, p_holm=adjusted.get(str(n), 1.0)) for n, c in enumerate(made)]


def recommendation(records: Mapping[str, RunRecord], rows: Rows, pending: Collection[str]) -> tuple[str | None, str]:
    """The cell that a run recommends, None where it recommends nothing, and the first sentence of its decision."""
    if not records or pending:
        return None, "Not all cells have ended."
    decision = decide(list(records.values()), rows, policy_of(records.values()))
    return decision.chosen, decision.sentences[0]


def _state(run: Run, cell: str) -> str:
    return str(run.records[cell].status) if cell in run.records else "pending" if cell in run.pending else "absent"


def summary(made: Sequence[Change], scores: str) -> str:
    """What was found by these scores, in a sentence or two."""
    told = [c for c in made if c.pair]
    if not told:
        return "No cell has scored rows in both runs, so quality was not compared."
    count = {v: sum(c.verdict == v for c in told) for v in ("worse", "better", "not told apart")}
    blind = max(c.pair.smallest(len(told)) for c in told if c.pair)
    least = (
        f" These rows would likely show differences of {points(blind).lstrip('+')} points or more." if blind < 1 else ""
    )
    return (
        f"Of {len(told)} comparisons of {scores}, {count['worse']} shown to be worse, {count['better']} better, "
        f"{count['not told apart']} not told apart.{least}"
    )


def view(runs: Sequence[Run], anyway: bool = False) -> dict[str, Any]:
    """Everything that the page shows, as plain values. Raises `UserError` for runs that cannot be compared."""
    found = comparable(runs, anyway)
    made = changes(runs, found)
    ids = list(dict.fromkeys(i for run in runs for i in run.records))
    names = labels(ids)
    first = runs[0]
    scores = " and ".join(dict.fromkeys(f"“{primary(first.ok[c.cell], None)}”" for c in made))
    states = [{"name": names[i], "states": [_state(run, i) for run in runs]} for i in ids]
    told = [recommendation(r.records, r.rows, r.pending) for r in runs]
    return {
        "runs": [
            {"name": r.name, "folder": str(r.folder), "recommends": names[chosen] if chosen else why}
            for r, (chosen, why) in zip(runs, told, strict=True)
        ],
        "first": first.name, "scores": scores, "summary": summary(made, scores),
        "changes": [_told(c, names) for c in made],
        "left_out": sorted({f"{d.told}: {LEFT_OUT[d.effect]}" for d in found if d.effect in LEFT_OUT}),
        "told": [d.told for d in found if d.effect == TOLD],
        "states": [s for s in states if len(set(s["states"])) > 1], "cells": len(ids),
        "shown_flips": SHOWN_FLIPS,
    }  # fmt: skip


def _chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _told(c: Change, names: Mapping[str, str]) -> dict[str, Any]:
    """A change as tables show it."""
    pair = c.pair
    return {
        "name": names[c.cell], "run": c.run, "verdict": c.verdict, "prompts": c.prompts,
        "delta": points(pair.delta) if pair else "–", "low": points(pair.low) if pair else "–",
        "high": points(pair.high) if pair else "–", "p": _chance(pair.p) if pair else "–",
        "holm": _chance(c.p_holm) if pair else "–",
        "gained": pair.gained if pair else 0, "lost": pair.lost if pair else 0,
        "n": pair.n if pair else 0, "flips": c.flips[:SHOWN_FLIPS], "more": max(0, len(c.flips) - SHOWN_FLIPS),
        "ratios": [
            {"title": title, "was": was, "now": now, "ratio": f"{significant(ratio)}×",
             "interval": f"{significant(i.low)} to {significant(i.high)}" if i else "–"}
            for title, was, now, ratio, i in c.ratios
        ],
    }  # fmt: skip


def markdown(page: Mapping[str, Any]) -> str:
    """The short form, for a terminal or a pull request."""

    def line(values: Iterable[Any]) -> str:
        return "| " + " | ".join(plain_markdown(v) for v in values) + " |"

    def grid(heads: Sequence[str], rows: Iterable[Iterable[Any]]) -> list[str]:
        return [line(heads), line("---" for _ in heads), *map(line, rows), ""]

    out = [f"# {' against '.join(plain_markdown(r['name']) for r in reversed(page['runs']))}", ""]
    out += [plain_markdown(page["summary"]), ""]
    out += [f"- {plain_markdown(r['name'])} recommends: {plain_markdown(r['recommends'])}" for r in page["runs"]]
    out += ["", *(f"- {plain_markdown(d)}" for d in page["left_out"])]
    out += [*(f"- differs: {plain_markdown(d)}" for d in page["told"]), ""]
    if any(c["n"] for c in page["changes"]):
        out += grid(
            ["Cell", "Run", page["scores"], "95% interval", "p (Holm)", "Gained", "Lost", "Rows", "Verdict"],
            ([c["name"], c["run"], c["delta"], f"{c['low']} to {c['high']}", c["holm"], c["gained"], c["lost"], c["n"],
              c["verdict"]] for c in page["changes"]),
        )  # fmt: skip
    if any(c["ratios"] for c in page["changes"]):
        out += grid(
            ["Cell", "Run", "Measure", "Then", "Now", "Ratio", "95% interval"],
            ([c["name"], c["run"], r["title"], r["was"], r["now"], r["ratio"], r["interval"]]
             for c in page["changes"] for r in c["ratios"]),
        )  # fmt: skip
    if page["states"]:
        out += grid(["Cell", *(r["name"] for r in page["runs"])], ([s["name"], *s["states"]] for s in page["states"]))
    return "\n".join(out)


def write(page: Mapping[str, Any], target: Path) -> None:
    """Draws the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(resource("reports")), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda v: visible(v) if type(v) is str else v,
    )  # fmt: skip
    ledger.write_text(target, templates.get_template("compare.html.j2").render(page))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.report", description="Compare runs, each with the first, cell by cell on the same rows."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="two run folders or more, the oldest first")
    parser.add_argument("--anyway", action="store_true", help="compare the quality of runs of different hardware")
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="the page (default: compare.html in the last run's folder)"
    )
    given = parser.parse_args(arguments)
    if len(given.runs) < 2:
        parser.error("give two run folders or more")
    target = given.to or given.runs[-1] / "compare.html"
    try:
        page = view(read(given.runs), given.anyway)
        write(page, target)
    except UserError as error:
        for mistake in error.mistakes:
            print(f"harness: {visible(mistake)}", file=sys.stderr)
        return 2
    print(markdown(page))
    print(visible(target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
