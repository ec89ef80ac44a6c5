"""Compares runs cell by cell: the same rows, paired, for quality; ratios for what a machine was timed at.

Runs of different suites or evaluation rows measure different things and are refused. Runs of different hardware are
refused unless the caller wants them anyway, and then only their quality is compared.

    runs --read--> Run --comparable--> Difference --changes--> Change, which `harness.report.against` puts into words
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import runs
from harness.decide import P95, Policy, not_shares, primary, quality, twins_of
from harness.errors import UserError
from harness.runs import Row, Run
from harness.statistics import Paired, group_of, holm, paired, quantile_ratio
from harness.types import GROUPS, Interval, Json, Measurement, RunRecord, Status, StepKind, knobs, plain

Ratio = tuple[str, Measurement, Measurement, float, Interval | None]
SAME = "the same measurement"  # a verdict: one step of the store stands in both runs
SHOWN_P = 0.05
SHOWN_CELLS = 3  # named of a difference that only some cells have
TIMING = ("output_tokens", "batch_size", "batch_tokens")  # knobs of `measure.latency` that times follow from
TIMED = (
    ("ttft_ms", 0.5, "First token p50"), ("itl_ms", 0.5, "Between tokens p50"),
    ("e2e_ms", 0.5, "Whole answer p50"), ("e2e_ms", 0.95, "Whole answer p95"),
)  # fmt: skip
SPEED, COST, RATE = "speed", "cost", "rate"  # what a difference has to do with
TOLD, REFUSED = "told", "refused"
DIGESTS = (  # of what steps saw: the step, what its key calls it, what it is, what follows
    ("adapt", "data", "training rows and articles", TOLD), ("adapt", "instructions", "instructions", TOLD),
    ("quality", "rows", "evaluation rows or their scoring", REFUSED),
)  # fmt: skip
LEVEL = "measure.latency.level."  # knobs of the service level
SIZED = (
    ("throughput_tokens_per_s", "Throughput, batched", (SPEED,)),
    ("goodput_requests_per_s", "Goodput", (SPEED, RATE)),
    ("memory_bytes/cuda_peak_process", "Peak memory, GPU", (SPEED,)),
    ("memory_bytes/cuda_peak_reserved", "Peak memory, GPU reserved", (SPEED,)),
    ("memory_bytes/peak_rss", "Peak memory, process", (SPEED,)), ("disk_bytes", "On disk", ()),
    ("cost_usd_per_1000", "Cost per 1,000, full batches", (SPEED, COST)),
    ("output_tokens/mean", "Answer length", ()),
)  # fmt: skip
TIMES = {title for *_, title in TIMED} | {t for _, t, on in SIZED if SPEED in on and COST not in on}  # of one step


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which a run differs from the first. `effect` is what follows: such runs are `refused`, speed, cost
    or goodput is left out, or it is only `told`. `cells` are named where not all compared differ so."""

    field: str
    run: str
    was: str
    now: str
    effect: str
    cells: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What it is, and in which cells."""
        more = len(self.cells) - SHOWN_CELLS
        some = ", ".join(self.cells[:SHOWN_CELLS]) + (f" and {more} more" if more > 0 else "")
        return f"{self.field}: {self.was} in the first run, {self.now} in {self.run}" + (f" ({some})" if some else "")


@dataclass(frozen=True, slots=True)
class Change:
    """A cell in a later run against the first run's, `first`: the same one, or the one of each. `same` are the steps
    that are one and the same measurement in both (`quality`, `latency`). `pair` is None where there are no scored rows
    in both; `prompts` is how many rows were asked in other words; `ratios` are (title, then, now, ratio, its interval),
    `flips` (the row then, the row now, what its score gained), lost ones first."""

    cell: str
    first: str
    run: str
    same: tuple[str, ...]
    pair: Paired | None
    p_holm: float
    prompts: int
    ratios: tuple[Ratio, ...]
    flips: tuple[tuple[Row, Row, float], ...]

    @property
    def verdict(self) -> str:
        """What the rows show."""
        if self.pair is None:
            return "not compared"
        if StepKind.QUALITY in self.same:
            return SAME
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
    found: list[Run] = []
    mistakes: list[str] = []
    for folder, name in zip(folders, names, strict=True):
        try:
            found.append(replace(runs.read(folder), name=name))
        except UserError as error:
            mistakes += error.mistakes
    if mistakes:
        raise UserError(mistakes)
    return found


def _said(value: Json) -> str:
    """A knob's value, where 1 and 1.0 are one number, and null what an earlier version had no knob for."""
    if value is None:
        return "none"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def timing(record: RunRecord) -> str:
    """The knobs that a latency follows from."""
    latency: Mapping[str, Json] = record.params("measure").get("latency", {})
    return ", ".join(f"{k} {latency[k]}" for k in TIMING if k in latency)


def price_of(record: RunRecord) -> str:
    """The prices that a cost follows from."""
    price: Mapping[str, Json] = record.config.get("price") or {}
    return ", ".join(f"{k} {_said(price[k])}" for k in ("usd_per_hour", "volume_requests", "utilization") if k in price)


def matched(first: Run, later: Run) -> list[tuple[str, str]]:
    """The cells that are compared, by their ids in both runs: the same ones, or the one with the other where each run
    has one."""
    if len(first.records) == len(later.records) == 1 and not (first.pending or later.pending):
        return list(zip(first.records, later.records, strict=True))
    return [(i, i) for i in first.records if i in later.records]


def _both_ok(first: Run, later: Run) -> list[tuple[RunRecord, RunRecord]]:
    both = ((first.records[a], later.records[b]) for a, b in matched(first, later))
    return [(a, b) for a, b in both if a.status is b.status is Status.OK]


def _config(record: RunRecord) -> dict[str, str]:
    """What was chosen in each group and its knobs, but for those that `timing` tells."""
    found = {g: str(record.config.get(g, {}).get("name")) for g in GROUPS}
    for group in GROUPS:
        found |= {name: _said(value) for name, value in knobs(record.params(group), group)}
    return {k: v for k, v in found.items() if k not in [f"measure.latency.{t}" for t in TIMING]}


def _fields(record: RunRecord, policy: Policy) -> dict[str, tuple[str, str]]:
    """What a comparison depends on: field -> (value, what follows when it differs)."""
    env = record.environment
    versions: Mapping[str, str] = env.get("versions", {})
    return {
        "suite": (record.suite, REFUSED),
        "deciding score": (primary(record, policy), REFUSED),
        "device": (str(env.get("device")), SPEED),
        "hardware": (str(env.get("hardware")), SPEED),
        "timed requests": (timing(record), SPEED),
        "price": (price_of(record), COST),
        **{f"policy.{key}": (_said(value), TOLD) for key, value in plain(policy).items()},
        "dtype": (str(env.get("dtype")), TOLD),
        "profile": (record.profile, TOLD),
        "seed": (str(record.seed), TOLD),
        **{
            name: (value, RATE if name.startswith(LEVEL) else TOLD)
            for name, value in _config(record).items() if name != "suite"
        },
        **{f"{name}": (version, TOLD) for name, version in versions.items()},
    }  # fmt: skip


def between(first: Run, later: Run) -> list[Difference]:
    """Every field in which cells of both runs differ, each once."""
    found: dict[Difference, list[str]] = {}
    both, names = _both_ok(first, later), first.names

    def differs(record: RunRecord, name: str, a: str, b: str, effect: str) -> None:
        found.setdefault(Difference(name, later.name, a, b, effect), []).append(names[record.id])

    for one, other in both:
        was, now = _fields(one, first.policy), _fields(other, later.policy)
        replaced = {g for g in GROUPS if g in was and was[g] != now[g]}  # another choice, whose knobs are its own
        for name in dict.fromkeys([*was, *now]):
            _, effect = was.get(name) or now[name]
            (a, _), (b, _) = (fields.get(name, ("none", effect)) for fields in (was, now))
            if a != b and (name in replaced or name.partition(".")[0] not in replaced):
                differs(one, name, a, b, effect)
        for kind, kept, name, effect in DIGESTS:
            a, b = (r.digest_of(kind, kept) for r in (one, other))
            if a and b and a != b:
                differs(one, name, f"digest {a}", f"digest {b}", effect)
    return [replace(d, cells=() if len(cells) == len(both) else tuple(cells)) for d, cells in found.items()]


def comparable(runs: Sequence[Run], anyway: bool) -> list[Difference]:
    """The differences between runs that may be compared. Raises `UserError` with every field that forbids it."""
    first, *others = runs
    found: list[Difference] = []
    mistakes = []
    for run in others:
        if not matched(first, run):
            mistakes.append(
                f"{run.folder}: no cell of {first.folder} is in it; compare runs of one sweep, or of one cell each"
            )
        found += between(first, run)
    mistakes += [f"{d.text}; such runs cannot be compared" for d in found if d.effect == REFUSED]
    judged = [(primary(r, first.policy), quality(r, first.policy)) for r in first.ok]
    mistakes += [
        f"{first.folder}: “{name}” decides, and less of it is better; only runs judged by a score of which more is "
        "better can be compared"
        for name in sorted({name for name, m in judged if m and m.better == "lower"})
    ]
    for run in runs:
        said = not_shares(run.ok, run.rows, first.policy, {r.suite for r in run.ok}, run.names)
        mistakes += [f"{run.folder}: {said[1]}"] if said else []
    places = [d for d in found if d.field in ("device", "hardware")]
    if places and not anyway:
        mistakes += [f"{d.text}; --anyway compares their quality and leaves speed, memory and cost out" for d in places]
    if mistakes:
        raise UserError(list(dict.fromkeys(mistakes)))
    return found


def _scored(rows: Collection[Row], score: str) -> dict[str, Row]:
    return {str(r["id"]): r for r in rows if isinstance(v := r["scores"].get(score), int | float) and 0 <= v <= 1}


def _pair(was: Mapping[str, Row], now: Mapping[str, Row], score: str) -> Paired | None:
    """The later answers against the first, on the rows of both."""
    shared = [i for i in was if i in now]
    if not shared:
        return None
    left, right = ([float(rows[i]["scores"][score]) for i in shared] for rows in (now, was))
    return paired(left, right, [group_of(was[i]) for i in shared])


def _flips(was: Mapping[str, Row], now: Mapping[str, Row], score: str) -> list[tuple[Row, Row, float]]:
    """The rows whose score changed, lost ones first."""
    moved = [(now[i]["scores"][score] - was[i]["scores"][score], i) for i in was if i in now]
    return [(was[i], now[i], d) for d, i in sorted(moved) if d]


def _same(a: RunRecord, b: RunRecord) -> tuple[str, ...]:
    """The kinds of measurement that were taken once for both records, all rounds of them: keys alone are those of any
    two measurements of the same."""

    def keys(r: RunRecord, kind: str) -> list[Json]:
        steps = [step for name, step in r.steps.items() if name.partition(" ")[0] == kind]
        return [[step.get(k) for k in ("key", "created_unix", "seconds")] for step in steps]

    both = {kind: keys(a, kind) for kind in (StepKind.QUALITY, StepKind.LATENCY)}
    return tuple(k for k, mine in both.items() if mine and None not in mine[0] and mine == keys(b, k))


def _by_prompt(r: RunRecord, metric: str) -> list[list[float]]:
    """The raw samples of a time, of all rounds, by prompt: each round asks so many requests in one order, which begins
    again where prompts are fewer, and between the tokens of an answer lie several samples."""
    m, whole = r.value(f"{metric}/p50"), r.value("e2e_ms/p50")  # p50 keeps the samples of p95 too
    if not (m and whole and m.samples and whole.samples):
        return []
    requests = r.params("measure").get("latency", {}).get("requests", whole.n)
    found: list[list[float]] = [[] for _ in range(min(requests, whole.n))]
    for n, sample in enumerate(m.samples):
        found[n * len(whole.samples) // len(m.samples) % requests % len(found)].append(sample)
    return [part for part in found if part]


def pace_of(runs: Sequence[Run]) -> float:
    """How many times as slow a whole run may be with nothing changed, by the policies of all, and by their cells that
    do the same work."""
    seen = [t.pace for run in runs if (t := twins_of(run.ok, run.policy.pace).get(P95))]
    return max([run.policy.pace for run in runs] + seen)


def _ratios(a: RunRecord, b: RunRecord, out: set[str], pace: float) -> list[Ratio]:
    """What `b` takes against `a`, but for what is left out."""
    found: list[Ratio] = []
    drifts = [m.value for r in (a, b) if (m := r.value("round_drift"))]
    for metric, q, title in TIMED if SPEED not in out else ():
        was, now = a.value(f"{metric}/p{100 * q:.0f}"), b.value(f"{metric}/p{100 * q:.0f}")
        raw = [_by_prompt(r, metric) for r in (a, b)]
        if was and now and all(raw):
            ratio, around = quantile_ratio(raw[1], raw[0], q, max([pace, *drifts]))
            found.append((title, was, now, ratio, around))
    for metric, title, depends in SIZED:
        was, now = a.value(metric), b.value(metric)
        if was and now and was.value > 0 and not out & set(depends):
            found.append((title, was, now, now.value / was.value, None))
    return found


def changes(runs: Sequence[Run], found: Sequence[Difference]) -> list[Change]:
    """Every cell that ended ok in the first run and in a later one, Holm-corrected over all of them that were measured
    twice."""
    first, *others = runs
    made, pace = [], pace_of(runs)
    for run in others:
        out = {d.effect for d in found if d.run == run.name}
        for a, b in _both_ok(first, run):
            score = primary(a, first.policy)
            was, now = _scored(first.rows[a.id], score), _scored(run.rows[b.id], score)
            other = sum(was[k].get("prompt_hash") != now[k].get("prompt_hash") for k in was if k in now)
            made.append(
                Change(b.id, a.id, run.name, _same(a, b), _pair(was, now, score), 1.0, other,
                       tuple(_ratios(a, b, out, pace)), tuple(_flips(was, now, score)))
            )  # fmt: skip
    adjusted = holm({str(n): c.pair.p for n, c in enumerate(made) if c.pair and StepKind.QUALITY not in c.same})
    return [replace(c, p_holm=adjusted.get(str(n), 1.0)) for n, c in enumerate(made)]
