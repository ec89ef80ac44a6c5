"""One page for all runs of an outputs folder: what each recommends, and how every sweep's numbers moved over time.

Runs of other suites have trends of their own, and a line joins two runs only where they compare: all of it of the same
models, response time, memory and cost on the same hardware with the same timed requests, cost at the same prices,
volume, rate and weights of suites, quality on the same evaluation rows by the same score and weights. A run that cannot
be read is listed with what is wrong with it. What the release gate measured for itself, below `check/`, and what was
reproduced, below `reproduced/`, are no runs of a sweep, and are left out; runs of a sweep that is called so are not.

    python -m harness.report --index outputs/
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness import escaping, ledger
from harness.compare import price_of, timing
from harness.decide import GOODPUT, Policy, argued, as_counted, basis_of, primary, timed, weights_of
from harness.decide.recipes import recipes
from harness.errors import UserError
from harness.files import yaml_keys
from harness.report.numbers import COST, P95, QUALITY, TITLES, Numbers, counted, numbers
from harness.runs import model_name, read
from harness.types import Measurement, RunRecord, Status, canonical
from harness.wording import first, labels, number

PAGE = "index.html"
DEEP = 4  # folders below the one given
ASIDE = ("check", "reproduced")  # where the gate and `harness.reproduce` measure
SHOWN_WRONG = 3  # lines of what is wrong with a run
WIDE, HIGH, EDGE = 640.0, 120.0, 10.0  # of a trend's drawing


@dataclass(frozen=True, slots=True)
class Listed:
    """A run as an index shows it. `wrong` says why it cannot be read; `chosen` is None where nothing is recommended,
    and `told` then says why. `numbers` are those of each recipe by its id, and `counted` says how those of the chosen
    were put together. `rows`, `timed` and `priced` tell runs that compare from others: the evaluation rows of each
    suite judged with their score and weight, the machines and timed requests of its cells, and what costs follow
    from."""

    folder: Path
    sweep: str
    time: str
    records: Mapping[str, RunRecord] = field(default_factory=dict)
    pending: int = 0
    chosen: str | None = None
    told: str = ""
    numbers: Mapping[str, Numbers] = field(default_factory=dict)
    counted: str = ""
    rows: str = ""
    timed: Collection[tuple[str, ...]] = ()
    priced: Collection[tuple[str, ...]] = ()
    wrong: tuple[str, ...] = ()

    @property
    def ok(self) -> list[RunRecord]:
        """The cells with numbers."""
        return [r for r in self.records.values() if r.status is Status.OK]

    @property
    def models(self) -> list[str]:
        """Their base models, as people call them."""
        return sorted({model_name(r) for r in self.ok})


def run_folders(root: Path) -> list[Path]:
    """The run folders below a folder, each sweep's in the order of their names, which are times; one that links lead to
    as well once, by the name that is none of them."""
    found: list[Path] = []
    level = [root]
    for _ in range(DEEP + 1):
        inside: list[Path] = []
        for f in level:
            try:
                run = (f / "records").is_dir() or (f / ledger.CELLS).exists()
                inside += [] if run else [p for p in sorted(f.iterdir()) if p.name[:1] != "." and p.is_dir()]
            except OSError:  # told where it is read
                run = True
            if run and not _aside(f, root):
                found.append(f)
        level = inside
    by_link = sorted(found, key=lambda f: f.resolve() != root.resolve() / f.relative_to(root))
    once = {f.resolve(): f for f in reversed(by_link)}
    return sorted(once.values(), key=lambda f: (str(f.parent), f.name))


def _aside(folder: Path, root: Path) -> bool:
    """Whether the gate or `harness.reproduce` measured a run for itself: below a folder of theirs, and by no sweep of
    that name."""
    aside = [name for name in ASIDE if name in folder.relative_to(root).parts]
    if not aside:
        return False
    try:
        return yaml_keys(folder / "config.yaml").get("sweep_name") not in aside
    except ValueError:  # there is none: `reproduce` writes none
        return True


def listed(folder: Path) -> Listed:
    """What an index says of a run; never raises for a run that is broken."""
    sweep, time = folder.parent.name, folder.name
    try:
        run = read(folder)
        rows, policy, grid = run.rows, run.policy, list(run.records.values())
        decision, known = run.decided() or (None, argued(grid, rows, policy)[1])
        chosen, told = (decision.chosen, decision.sentences[0]) if decision else (None, "Not all cells have ended.")
        weights, basis = weights_of(grid, policy), basis_of(grid, policy)
        ok = [r for r in grid if r.status is Status.OK and r.suite in weights]
        times = {(r.suite, str(r.environment.get("device")), str(r.environment.get("hardware")), timing(r)) for r in ok}
        priced = {(f"{weights[r.suite]:g}", *_pricing(r, policy, basis)) for r in ok}
        asked = {r.suite: r for r in reversed(ok) if rows[r.id]}
        digest = ", ".join(
            f"{s} × {w:g}: {r.digest_of('quality', 'rows')} {primary(r, policy)}"
            for s, w in weights.items() if (r := asked.get(s))
        )  # fmt: skip
        records = as_counted(run.records, policy)
        kinds = recipes(list(records.values()), weights)
        found = {k.id: numbers(k, weights, rows, policy, known) for k in kinds}
        added = next((counted(k, weights).get(QUALITY, "") for k in kinds if k.id == chosen), "")
    except UserError as error:
        return Listed(folder, sweep, time, wrong=error.mistakes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # a record's inside, edited by hand
        return Listed(folder, sweep, time, wrong=(f"{folder}: cannot be judged ({type(error).__name__}: {error})",))
    return Listed(folder, sweep, time, records, len(run.pending), chosen, told, found, added, digest, times, priced)


def _pricing(record: RunRecord, policy: Policy, basis: str) -> tuple[str, ...]:
    """What a cost follows from beside the machine: prices, volume, and the rate with what it had to meet."""
    labelling = (record.config.get("price") or {}).get("usd_per_labelled_row") or 0.0
    met = record.params("measure").get("latency", {}).get("level")
    rate = f"{basis} {canonical(met)}" if basis == GOODPUT else basis
    return price_of(record), f"{labelling:g}", str(policy.volume_requests), rate


def _best(run: Listed, title: str) -> Measurement | None:
    found = [m for of in run.numbers.values() if (m := of[title])]
    return max(found, key=lambda m: m.value if m.better == "higher" else -m.value, default=None)


def _alike(a: Listed, b: Listed, title: str) -> bool:
    """Whether a line may join two runs."""
    if a.models != b.models:
        return False
    if title == QUALITY:
        return bool(a.rows) and a.rows == b.rows
    return a.timed == b.timed and (title != COST or a.priced == b.priced)


def trend(runs: Sequence[Listed], title: str) -> dict[str, Any] | None:
    """One measure over the runs of a sweep, of the recommended cell and of the best: places on a `WIDE` × `HIGH`
    drawing, and the numbers as text. None where fewer than two runs have it."""
    series: dict[str, list[Measurement | None]] = {
        "recommended": [r.numbers[r.chosen][title] if r.chosen else None for r in runs],
        "best": [_best(r, title) for r in runs],
    }
    values = [m.value for line in series.values() for m in line if m]
    if sum(m is not None for m in series["best"]) < 2:
        return None
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    base = (low + high - span) / 2

    def at(n: int, m: Measurement) -> tuple[float, float]:
        x = EDGE + (WIDE - 2 * EDGE) * n / max(1, len(runs) - 1)
        return round(x, 1), round(HIGH - EDGE - (HIGH - 2 * EDGE) * (m.value - base) / span, 1)

    breaks = [n for n in range(1, len(runs)) if not _alike(runs[n - 1], runs[n], title)]
    drawn = {}
    for name, line in series.items():
        pieces: list[list[tuple[float, float]]] = [[]]
        for n, m in enumerate(line):
            if m is None or n in breaks:
                pieces.append([])
            if m is not None:
                pieces[-1].append(at(n, m))
        drawn[name] = [p for p in pieces if p]
    unit = next(m.unit for m in series["best"] if m)
    first, last = number(low, unit), number(high, unit)
    rows = [
        {"time": run.time, "new": n in breaks, **{k: number(m.value, m.unit) if (m := line[n]) else "–"
                                                  for k, line in series.items()}}
        for n, run in enumerate(runs)
    ]  # fmt: skip
    return {
        "title": title, "drawn": drawn, "rows": rows,
        "reach": f"Always {first}" if first == last else f"From {first} to {last}",
        "breaks": [round(EDGE + (WIDE - 2 * EDGE) * (n - 0.5) / (len(runs) - 1), 1) for n in breaks],
    }  # fmt: skip


def view(root: Path) -> dict[str, Any]:
    """Everything that the page shows, as plain values. Raises `UserError` for a folder without runs."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one that runs are written to, such as outputs/")
    every = [listed(f) for f in run_folders(root)]
    if not every:
        raise UserError(f"{root}: no run folders in it; give the one that runs are written to, such as outputs/")
    sweeps = []
    for name in dict.fromkeys((r.folder.parent, r.sweep) for r in every):
        runs = [r for r in every if (r.folder.parent, r.sweep) == name]
        whole = [r for r in runs if not r.wrong and r.ok]
        asked: dict[str, list[Listed]] = {}
        for r in whole:
            asked.setdefault(" and ".join(sorted({cell.suite for cell in r.ok})), []).append(r)
        answer = timed(cell for r in whole for cell in r.ok)
        heads = {title: f"{title} of a {answer}" if answer and title == P95 else title for title in TITLES}
        sweeps.append(
            {"name": name[1], "runs": [_line(r, root) for r in reversed(runs)], "heads": list(heads.values()),
             "trends": [{**t, "title": head + (f", {suites}" if len(asked) > 1 else "")}
                        for suites, those in asked.items() for title, head in heads.items()
                        if (t := trend(those, title))]}
        )  # fmt: skip
    return {
        "root": str(root), "sweeps": sweeps, "total": len(every), "broken": sum(bool(r.wrong) for r in every),
        "wide": WIDE, "high": HIGH,
    }  # fmt: skip


def _line(run: Listed, root: Path) -> dict[str, Any]:
    """A run as the table shows it."""
    counts = ledger.done(list(run.records.values()))
    own = run.numbers.get(run.chosen or "", {})
    shown = [number(m.value, m.unit) if (m := own.get(title)) else "–" for title in TITLES]
    page = run.folder / "report.html"
    machines = {str(r.environment.get("hardware")).replace("(R)", "").replace("(TM)", "") for r in run.ok}
    return {
        "time": run.time, "models": ", ".join(run.models), "wrong": first(SHOWN_WRONG, run.wrong),
        "pending": run.pending, "counts": {str(k): v for k, v in counts.items()}, "told": run.told, "values": shown,
        "chosen": labels(run.records)[run.chosen] + run.counted if run.chosen else "",
        "link": quote(page.relative_to(root).as_posix()) if os.path.isfile(page) else "",
        "hardware": ", ".join(sorted(machines)),
    }  # fmt: skip


def write(root: Path) -> Path:
    """Draws `index.html` in an outputs folder; returns its path."""
    target = root / PAGE
    ledger.write_text(target, escaping.page("index.html.j2", view(root)))
    return target
