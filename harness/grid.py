"""One grid from its configurations to its report: check everything (`harness.configured`), plan, carry out, record,
redraw."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from harness import ledger, records, report
from harness.configured import Grid, check, constrained
from harness.environment import Environment, detect
from harness.errors import UserError
from harness.escaping import terminal_text
from harness.files import UNWRITABLE
from harness.launch import Launcher
from harness.leakage import near
from harness.licences import rows_licence, rows_source
from harness.plan import Plan, plan
from harness.progress import Board, alike, clock
from harness.standing import standing
from harness.store import Store, read_manifest
from harness.store.upkeep import shrink
from harness.suites.faults import forbidden
from harness.suites.shape import few_groups, in_groups
from harness.terminal import speaker
from harness.types import Json, Overlap, Status, StepKind, SuiteData, canonical, digest, is_side, plain
from harness.wording import labels, plural

REDRAW = 20  # times as long as a drawing takes, the report is left as it is: a twentieth of a grid's time goes into it


def _expected(store: Store, made: Plan) -> dict[tuple[str, str], list[float]]:
    """Seconds that steps that are alike took before in this store on a plan's own models, for the time left."""
    built: dict[str, dict[str, Any]] = {}
    for folder in store.builds():
        with suppress(OSError, ValueError):
            built[folder.name] = read_manifest(folder)

    def of_its_models(key: str) -> bool:
        above = built[key]["preimage"] if key in built else {}
        return key in made.steps or any(of_its_models(above[k]) for k in ("base", "model") if k in above)

    seen: dict[tuple[str, str], list[float]] = {}
    for m in (m for key, m in built.items() if of_its_models(key)):
        seen.setdefault(alike(m["kind"], m["title"]), []).append(m["seconds"])
    return seen


def _timed_anew(grid: Grid, made: Plan) -> Grid:
    """A grid in whose store the timings that stand count as not there, where they are to be taken anew."""
    timings = [s for s in made.steps.values() if s.kind is StepKind.LATENCY and grid.time_again]
    old = [m["digest"] for step in timings if (m := grid.store.manifest(step))]
    return replace(grid, store=Store(grid.store.root, old))


def carry_out(grid: Grid, console: Console, decide: bool = True) -> int:
    """Runs a checked grid and returns the exit code: 0 when every cell is ok or unsupported, 1 when one failed, or a
    later round of one: its record then stands on fewer rounds than were asked for, and says so, and a script that
    looks at nothing but the code must not take it for the whole. Where there is nothing to `decide`, no report is
    drawn. The store is brought below its limit before (what
    this grid needs stays) and after. Raises `UserError` where records that it wrote are gone at its end."""
    environment = detect()
    made = plan(grid.cells, grid.data, environment)
    with grid.store.hold(made.steps):
        grid.store.clean()
        _shrink(grid, console)
        code = _carry_out(_timed_anew(grid, made), made, environment, console, decide)
    _shrink(grid, console)
    return code


def _shrink(grid: Grid, console: Console) -> None:
    gone = shrink(grid.store, grid.store_limit_bytes) if grid.store_limit_bytes else []
    if gone:
        console.print(f"store_limit_gb: {len(gone)} builds evicted, the longest unused first")


def _carry_out(grid: Grid, made: Plan, environment: Environment, console: Console, decide: bool = True) -> int:
    ledger.write_cells(grid.run, [c.id for c in grid.cells])
    board = Board(made, console, _expected(grid.store, made), lambda: settle())
    launcher = Launcher(
        made, grid.store, environment, grid.workers, grid.fork_server, board, grid.step_limit_s, grid.trainings
    )
    board.launcher = launcher
    known = {k for k, s in made.steps.items() if grid.store.manifest(s)}  # evicted ones too
    draw_from = 0.0

    def settle() -> None:
        """Writes the record of each cell that has just finished, and draws the report anew, unless it was drawn just
        now, or this was the last: the last drawing is at the end."""
        nonlocal draw_from
        news = [
            c
            for c in made.cells
            if c.id not in board.records and records.finished(c, made, launcher.done | known, launcher.failed)
        ]
        for cell in news:
            record = records.assemble(cell, made, grid.store, launcher.failed, environment, grid.choices)
            if rows := records.rows_of(cell, made, grid.store):
                ledger.write_rows(grid.run, record, rows)
            ledger.write_record(grid.run, record)
            board.cell(record)
        if news and len(board.records) < len(made.cells) and time.monotonic() >= draw_from:
            start = time.monotonic()
            try:
                report.write(grid.run)
            except Exception as error:  # the last drawing raises it: what is being measured need not be lost for a page
                if isinstance(error, OSError) and error.errno in UNWRITABLE:  # nor could the next record be
                    raise
                told = terminal_text(f"({type(error).__name__}: {error})")
                console.print(f"[yellow]the report cannot be drawn[/] {told}; going on", soft_wrap=True)
            draw_from = time.monotonic() + REDRAW * (time.monotonic() - start)

    for line in launcher.broken.values():
        console.print(f"[yellow]broken[/] in the store, built anew: {terminal_text(line)}", soft_wrap=True)
    _announce(made, launcher.done, environment, grid, console)
    with board:
        settle()
        launcher.run()
        settle()
    kept = ledger.read_records(grid.run)
    if gone := board.records.keys() - {r.id for r in kept}:
        raise UserError(
            f"{grid.run}: records of {plural(len(gone), 'cell')} are gone, so it was moved or cleaned while the grid "
            "ran; run again, what is done is kept"
        )
    ledger.export(grid.run, kept)
    if decide:
        page, said = report.write(grid.run)
        _conclude(made, grid, page, said, console, clock_since=board.start)
    return 1 if launcher.failed or any(r.status is Status.FAILED for r in kept) else 0


def _foretell(grid: Grid, console: Console) -> None:
    """Says what a checked grid would do: its cells, the steps that do not stand in the store, and its suites' rows."""
    environment = detect()
    made = plan(grid.cells, grid.data, environment)
    done, _ = standing(made, _timed_anew(grid, made).store, look_only=True)
    _announce(made, done, environment, grid, console)
    for cell, name in labels(c.id for c in made.cells).items():
        why = made.unsupported.get(cell)
        told = f"cannot run: {why}" if why else f"{len({*made.chains[cell].values()} - done)} steps to do"
        console.print(terminal_text(f"  {name}  {told}"))
    todo = Counter(step.kind for key, step in made.steps.items() if key not in done)
    kinds = ", ".join(f"{todo[kind]} {kind}" for kind in StepKind if todo[kind])
    console.print(f"steps to do: {kinds or 'none'}")
    for name, data in _by_name(grid).items():
        rows = _rows(data)
        articles = plural(len(rows.pop("articles")), "article")
        sides = ", ".join(in_groups(side, what) for what, side in rows.items())
        console.print(terminal_text(f"rows of {name}: {sides}, {articles}"))
    console.print("nothing was built or written")


def _announce(made: Plan, done: Collection[str], environment: Environment, grid: Grid, console: Console) -> None:
    computing = f"computing in {environment.dtype}"
    if environment.device == "cpu" and environment.dtype == "float32":
        computing += " (this CPU has no fast 16-bit arithmetic)"
    engines = ", ".join(dict.fromkeys(c.engine.name for c in made.cells))
    console.print(
        f"{len(made.cells)} cell{'s' * (len(made.cells) != 1)}, "
        f"{len(made.steps)} steps ({len(done)} already done) on "
        + terminal_text(f"{environment.hardware}, {computing}; profile {grid.choices['profile']}, engine {engines}")
    )
    for name, several in _by_name(grid).items():
        cells = sum(cell.suite.name == name for cell in made.cells)
        for line in few_groups([row for data in several for row in data.evaluation], cells) if cells > 1 else ():
            console.print(f"[yellow]few groups[/] in {terminal_text(name)}: {line}")
    within = constrained(grid.cells).items()
    for line in (line for key, suite in within for line in forbidden(grid.data[key], suite)):
        console.print(f"[yellow]grammar[/] {terminal_text(line)}", soft_wrap=True)


def _conclude(made: Plan, grid: Grid, page: Path, said: Sequence[str], console: Console, clock_since: float) -> None:
    manifests = {key: m for key, step in made.steps.items() if (m := grid.store.manifest(step))}
    apart = sum(manifests[k]["seconds"] for chain in made.chains.values() for k in chain.values() if k in manifests)
    once = sum(m["seconds"] for m in manifests.values())
    console.print()
    for line in said:
        console.print(terminal_text(line), soft_wrap=True)
    if once:
        console.print(
            f"[dim]{clock(time.monotonic() - clock_since)} in all; the steps took {clock(once)} of work, "
            f"{clock(apart)} had each cell built its own ({apart / once:.1f} times)[/]"
        )
    console.print(f"report: {terminal_text(str(page))}", soft_wrap=True)


def _leakage(grid: Grid) -> dict[str, Json]:
    """What was found between evaluation rows and what builds see, and what is stated of them, by suite, for the
    report: over all that is swept of a suite, but for parts of a learning curve."""
    return {name: _found(several) for name, several in _by_name(grid).items()}


def _by_name(grid: Grid) -> dict[str, list[SuiteData]]:
    """The rows of each suite, as often as they differ."""
    of_name: dict[str, list[SuiteData]] = {}
    for key in dict.fromkeys(digest(plain(c.suite)) for c in grid.cells if not is_side(c.variant)):
        of_name.setdefault(grid.data[key].name, []).append(grid.data[key])
    return of_name


def _rows(several: Sequence[SuiteData]) -> dict[str, list[Any]]:
    """The rows of each use that a suite has; what stands in several of its forms counts once."""

    def distinct(rows: Callable[[SuiteData], Iterable[Any]]) -> list[Any]:
        return list({canonical(plain(row)): row for data in several for row in rows(data)}.values())

    return {"training": distinct(lambda d: d.train), "validation": distinct(lambda d: d.validation),
            "articles": distinct(lambda d: d.knowledge), "evaluation": distinct(lambda d: d.evaluation)}  # fmt: skip


def _found(several: Sequence[SuiteData]) -> dict[str, Json]:
    """As `_leakage`, of one suite as it was swept: rows that stand in several are counted once, and of a row's overlaps
    of one kind the closest is told."""
    overlaps: dict[tuple[str, ...], Overlap] = {}
    looked: list[tuple[Any, ...]] = []
    for data in several:
        rows = (data.evaluation, (*data.train, *data.validation), data.knowledge, data.message_field, data.told)
        if (*rows, data.overlaps) in looked:
            continue
        looked.append((*rows, data.overlaps))
        kept = {r["id"]: canonical(r) for r in data.evaluation}  # another file may have other rows of its ids
        for o in (o for o in (*data.overlaps, *near(*rows)) if o.row in kept):
            place = (o.kind, o.source, kept[o.row])
            overlaps[place] = max(overlaps.get(place, o), o, key=lambda o: o.similarity)

    def stated(told: Iterable[str], between: str) -> str:
        return between.join(dict.fromkeys(filter(None, told)))

    return {
        "rows": {what: len(rows) for what, rows in _rows(several).items()},
        "overlaps": [plain(o) for o in sorted(overlaps.values(), key=lambda o: -o.similarity)],
        "mode": stated((d.leakage for d in several), ", "),
        "source": stated((rows_source(d.folder) for d in several), "; "),
        "licence": stated((rows_licence(d.folder) for d in several), "; "),
    }  # fmt: skip


def main(configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]], run: Path, fresh: bool = False) -> int:
    """A whole grid in the folder `run`, or, where that is there and it must be `fresh`, one beside it; with `dry_run`
    only what it would do. The launcher that Hydra calls ends with this exit code."""
    console = speaker()
    grid = check(configs, overrides, run.absolute())
    if configs[0].get("dry_run"):
        _foretell(grid, console)
        return 0
    grid = replace(grid, run=ledger.run_folder(grid.run, fresh))
    try:
        with ledger.alone(grid.run):
            ledger.forget(grid.run)
            ledger.write_text(grid.run / "config.yaml", OmegaConf.to_yaml(configs[0]))
            ledger.write_leakage(grid.run, _leakage(grid))
            return carry_out(grid, console)
    except KeyboardInterrupt:
        kept = terminal_text(str(grid.store.root))
        anew = "; with runner.time_again=true it takes all times anew" if grid.time_again else ""
        console.print(f"\nstopped; what is done is kept in {kept}. Run the same command again to go on{anew}.")
        return 130
