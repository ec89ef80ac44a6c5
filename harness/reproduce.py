"""`python -m harness.reproduce RECORD`: says what it takes to run a record's cell again, does it, and compares.

    python -m harness.reproduce outputs/support_tone/TIME/records/CELL.json
    python -m harness.reproduce RECORD --dry-run     what differs here from where the record was made, and no more

The cell is built anew from its base model in a store of its own, so nothing of the first run is taken for the second.
Same inputs give the same scores on the same machine: answers are greedy, or drawn by a hash of seed, row and position.
Another processor, another number of threads or another library version may round otherwise, and a close choice of a
token then falls otherwise; what differs is told first. Times are shown beside each other and not judged.

Exit codes: 0 every row has the same prompt and scores, 1 some have not or the cell failed, 2 it cannot be reproduced
here: no record of an `ok` cell with scored rows, or other data or model files, 70 a fault of the harness itself, 130
stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness import ledger
from harness.configured import Grid, places
from harness.environment import Environment, detect
from harness.errors import BrokenArtifact, DoesNotFit, UserError
from harness.escaping import terminal_text
from harness.grid import carry_out
from harness.measure.quality import with_ends
from harness.plan import plan
from harness.store import Store
from harness.suite import load as load_suite
from harness.suites.faults import faults_of_task
from harness.terminal import Arguments, ended, speaker
from harness.types import (
    GROUPS,
    Cell,
    Component,
    Json,
    RunRecord,
    Status,
    StepKind,
    SuiteData,
    canonical,
    digest,
    plain,
)
from harness.wording import number

INPUTS = ("data", "instructions", "rows", "content", "component.params", "component.target", "knobs")  # others ask anew
PARENTS = ("base", "model")  # keys of other steps, whose own differences are told
SHOWN = ("e2e_ms/p50", "throughput_tokens_per_s", "memory_bytes/peak_rss")


def cell_of(record: RunRecord, path: Path) -> Cell:
    """The cell that left a record. Raises `UserError` where its configuration is not whole."""
    try:
        parts = {group: Component(**record.config[group]) for group in GROUPS}
        cell = Cell(**parts, seed=record.seed, variant=record.config.get("variant", ""))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: its configuration is not whole ({error}); only records as written can be run"
        ) from error
    return cell


def differences(was: Json, now: Json, at: str = "") -> Iterator[tuple[str, Json, Json]]:
    """The places where two JSON values differ, with both values: (`component.libraries.torch`, `2.9.0`, `2.10.0`). A
    NaN does not differ from another."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*was, *now)):
            yield from differences(was.get(key), now.get(key), f"{at}.{key}" if at else str(key))
    elif plain(was) != plain(now) and canonical(plain(was)) != canonical(plain(now)):  # as text NaN is NaN
        yield at, was, now


def of_steps(record: RunRecord, cell: Cell, data: SuiteData, machine: Environment) -> list[tuple[str, Json, Json]]:
    """What is other in the steps that this machine would carry out than in those that the record stands on."""
    made = plan([cell], {digest(plain(cell.suite)): data}, machine)
    if cell.id in made.unsupported:
        raise UserError(f"{cell.id}: {made.unsupported[cell.id]}; run it on {record.environment.get('hardware')}")
    found: list[tuple[str, Json, Json]] = []
    for role, key in made.chains[cell.id].items():
        was, now = record.steps.get(role), made.steps[key]
        if was is None or was.get("key") == key:
            continue
        for place, one, other in differences(was["preimage"], plain(now.preimage)):
            if place not in PARENTS:
                found.append((f"{role}.{place}", one, other))
    return found


def of_machines(record: RunRecord, machine: Environment) -> list[tuple[str, Json, Json]]:
    """What is other in hardware, system and libraries."""
    return list(differences({k: v for k, v in record.environment.items() if k != "threads"}, plain(machine)))


def is_input(place: str) -> bool:
    """Whether a difference asks another question: other data, model files or knobs, not other code or machines."""
    inner = place.partition(".")[2]
    return any(inner == name or inner.startswith(f"{name}.") for name in INPUTS)


def of_rows(was: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Json, Json]]:
    """(row, what, before, now) for each row that is missing, was asked otherwise, or scores otherwise. An answer in
    other words with the same scores is no difference here."""
    old, new = ({str(row["id"]): row for row in rows} for rows in (was, now))
    found: list[tuple[str, str, Json, Json]] = []
    for name in dict.fromkeys((*old, *new)):
        if name not in old or name not in new:
            found.append((name, "row", "there" if name in old else "none", "there" if name in new else "none"))
            continue
        if old[name].get("prompt_hash") != new[name].get("prompt_hash"):
            found.append((name, "prompt", old[name].get("prompt_hash"), new[name].get("prompt_hash")))
        found += [(name, place, a, b) for place, a, b in differences(old[name]["scores"], new[name]["scores"])]
    return found


def _table(title: str, lines: Sequence[tuple[Json, ...]], *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for line in lines:
        table.add_row(*(terminal_text(str(value)[:120]) for value in line))
    return table


def _told_inputs(record: RunRecord, cell: Cell, data: SuiteData, console: Console) -> None:
    """Says what it takes and what is other here. Raises `UserError` for other inputs."""
    machine = detect()
    told = f"{record.id}: measured on {record.environment.get('hardware')}, seed {record.seed}"
    console.print(terminal_text(told))
    for role, step in record.steps.items():
        console.print(terminal_text(f"  {role:<9} {step.get('key')}  {step.get('seconds')} s"))
    there = [*of_machines(record, machine), *of_steps(record, cell, data, machine)]
    if there:
        console.print(_table("Other here than where the record was made", there, "what", "record", "here"))
    else:
        console.print("The machine, the libraries, the code, the data and every knob are those of the record.")
    if other := [place for place, _, _ in there if is_input(place)]:
        raise UserError(
            f"{record.id}: {', '.join(other)} of this cell changed since, so its scores answer another question; "
            "bring the suite and the model to what they were (check out the commit of that run; if nobody touched "
            "them, the harness has since changed how it looks at them)"
        )


def _compared(record: RunRecord, before: Path, run: Path, console: Console) -> int:
    again = next((r for r in ledger.read_records(run) if r.id == record.id), None)
    if again is None:
        raise UserError(f"{run}: the cell left no record {record.id}; give --out a folder of its own")
    if again.status is not Status.OK:
        console.print(terminal_text(f"the cell {again.status}: {again.reason}"))
        return 1
    was, now = ledger.read_rows(before, record), ledger.read_rows(run, again)
    others = of_rows(was, now)
    timed = [
        (m, number(a.value, a.unit), number(b.value, b.unit))
        for m in SHOWN
        if (a := record.value(m)) and (b := again.value(m))
    ]
    console.print(_table("Times and memory, not judged", timed, "metric", "record", "here"))
    if others:
        console.print(_table("Rows that came out otherwise", others, "row", "what", "record", "here"))
    said, differing = {row["id"]: row["output"] for row in now}, {name for name, *_ in others}
    same = sum(row["id"] in said and said[row["id"]] == row["output"] for row in was)
    alike = sum(row["id"] not in differing for row in was)
    console.print(
        f"{len(was)} rows: {alike} with the same prompt and scores, {same} answered in the same words; "
        + ("reproduced" if not others else "not reproduced")
    )
    return 1 if others else 0


def reproduce(path: Path, out: Path | None, dry_run: bool, console: Console) -> int:
    """Runs a record's cell again into a run folder `out`, or one of its own; the exit code. Raises `UserError`."""
    record = ledger.read_record(path)
    if record.status is not Status.OK:
        raise UserError(f"{path}: that cell {record.status} ({record.reason}); only an ok one can be reproduced")
    cell = cell_of(record, path)
    if out and out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out}: holds files; the cell is built anew in a folder of its own, so give a new one")
    if StepKind.QUALITY not in record.steps:
        raise UserError(f"{path}: nothing was scored in that cell, so there are no rows to compare; run its grid again")
    beside = [place.parent.parent for place in (path.absolute(), path.resolve())]  # a link may lead to it, or from it
    if not (before := next((run for run in beside if ledger.read_rows(run, record)), None)):
        raise UserError(f"{path}: its rows are not beside it in {beside[0] / 'rows'}; keep the run folder together")
    if faults := faults_of_task(data := load_suite(cell.suite), cell.suite):
        raise UserError(faults)
    data = with_ends(data, cell.suite)
    _told_inputs(record, cell, data, console)
    if dry_run:
        return 0
    machine = detect()
    choices = {k: record.config[k] for k in ("policy", "price", "profile") if k in record.config}
    on_cpu = machine.device == "cpu"
    workers = max(1, machine.cpu_count // max(1, int(record.steps.get("quality", {}).get("threads", 1))))
    own = Path("outputs", "reproduced", time.strftime("%Y-%m-%d_%H-%M-%S"))
    run, mend = (out or own).absolute(), "give --out DIR"
    if mistakes := places({}, Store(run / "store"), run, on_cpu, mend):
        raise UserError(mistakes)
    run = ledger.run_folder(run, fresh=out is None, mend=mend)
    with ledger.alone(run):
        store = Store(run / "store")
        store.prepare(mend)
        grid = Grid((cell,), choices, {digest(plain(cell.suite)): data}, store, run, workers, on_cpu)
        ledger.write_leakage(run, {})
        code = carry_out(grid, console, decide=False)
        return _compared(record, before, run, console) or code


def _run(arguments: Sequence[str] | None) -> int:
    told = (__doc__ or "").split("\n\n")
    parser = Arguments("python -m harness.reproduce", description=told[0], epilog=told[-1])
    parser.add_argument("record", type=Path, help="a records/CELL.json of a run folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: outputs/reproduced/TIME)")
    parser.add_argument("--dry-run", action="store_true", help="only say what it takes and what differs here")
    given = parser.parse_args(arguments)
    try:
        return reproduce(given.record, given.out, given.dry_run, speaker())
    except (DoesNotFit, BrokenArtifact) as error:
        raise UserError(f"{given.record}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return ended(lambda: _run(arguments))


if __name__ == "__main__":
    sys.exit(main())
