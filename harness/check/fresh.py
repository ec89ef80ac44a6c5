"""Evaluates a fresh checkpoint as a baseline was: through the ordinary grid, in a process apart, so that what is done
is kept in the store. With a budget the rows come in parts of a fixed random order, with a look after each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.check.judge import Looks, certain, judge, refuse_other_suites, settled
from harness.check.rules import Rules
from harness.check.subject import Row, Side, Subject, joined, read
from harness.check.trial import Judgement
from harness.errors import UserError
from harness.escaping import config_value
from harness.rows import example_hash
from harness.suite import load as load_suite
from harness.terminal import tell
from harness.types import GROUPS, Component, Json, digest, knobs

Part = tuple[float, float] | None
GRACE_S = 30.0  # for a grid to stop its steps


def overrides(config: Mapping[str, Json], model: str, own: Sequence[str]) -> list[str]:
    """The command line that evaluates a model directory as `config` was; `own` come last, and a group chosen there is
    taken as it is, without the baseline's knobs. A knob that a choice no longer has is given all the same."""
    taken = {o.lstrip("+").partition("=")[0] for o in own}
    told = ["model=hf", f"model.id={config_value(model)}"] if "model" not in taken else []
    for group in GROUPS:
        if group not in ("model", *taken):
            part = config[group]
            told.append(f"{group}={part['name']}")
            told += [f"++{knob}={config_value(value)}" for knob, value in knobs(part["params"], group)]
    told += [f"{key}={config_value(config[key])}" for key in ("seed", "profile") if key not in taken]
    told.append("++profile.aa_control=false")  # a second cell, which no baseline has
    told += [f"++policy.{key}=null" for key in ("service_level", "metric", "suites")]  # a gate does not choose by one
    return [o for o in told if o.lstrip("+").partition("=")[0] not in taken] + list(own)


def outputs(own: Sequence[str]) -> Path:
    """Where runs go by overrides: as a grid has it, to `outputs=DIR`. Raises `UserError` for a `~`, which shells alone
    read."""
    given = [o.partition("=")[2] for o in own if o.lstrip("+").startswith("outputs=")]
    folder = given[-1].strip("\"'") if given else "outputs"
    if f"{folder}/".startswith("~/"):
        raise UserError(f'outputs={folder}: is a folder called ~ here; write "outputs=$HOME{folder[1:]}"')
    return Path(folder)


def misplaced(own: Sequence[str]) -> list[str]:
    """A line for each override that a grid of one cell, in a folder that is named for it, does not take."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, found = OverridesParser.create(), []
    for line in own:
        with suppress(HydraException):  # the grid tells it
            given = parser.parse_override(line)
            if given.is_sweep_override():
                found.append(f"{line}: sweeps, and is for one cell; give one value (a text with commas in quotes)")
            if given.key_or_group == "hydra.sweep.dir":
                found.append(f"{line}: has no effect here; runs go into a folder of outputs=DIR")
    return found


def grid(arguments: Sequence[str], run: Path, cell: str) -> None:
    """Runs the grid of a cell into a folder, and stops it where this process is stopped. Raises `UserError` where it
    was told a mistake (exit 2), and ends with 70 where it ended by a fault: its records may then be some of all. A
    failed cell (exit 1) is a record like any other."""
    command = [sys.executable, "-m", "harness", *arguments, f"hydra.sweep.dir={config_value(str(run))}"]
    process = subprocess.Popen(command)
    try:
        code = process.wait()
    except BaseException as stop:
        if not isinstance(stop, KeyboardInterrupt):  # Ctrl-C is told to both by the terminal
            process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        raise
    finally:
        process.kill()
        process.wait()
    if code == 130:
        raise KeyboardInterrupt
    if code not in (0, 1) or not run.is_dir():
        mistake = UserError(f"the grid of {cell} did not run (exit {code}, told above)")
        if code in (0, 1, 2):
            raise mistake
        tell(mistake.mistakes)
        sys.exit(os.EX_SOFTWARE)


def evaluate(model: str, baseline: Side, own: Sequence[str], out: Path, part: Part = None) -> Side:
    """A model directory measured as each cell of the baseline was (on a part of the rows), under the baseline's ids.
    Raises `UserError` where overrides make another number of cells than one of it, and, before anything is built, where
    its suite is another now."""
    first = not part or part[0] == 0
    if first and not any(o.lstrip("+~").startswith("suite") for o in own):
        refuse_other_suites(list(zip(_asked(baseline.cells), baseline.cells, strict=True)))
    cells: list[Subject] = []
    for at, cell in enumerate(baseline.cells):
        if part and not _rows(cell, *part):
            continue
        some = [f"measure.quality.part=[{part[0]!r},{part[1]!r}]"] if part else []
        run = out / f"cell-{at + 1}"
        grid([*overrides(cell.config, model, own), *some], run, cell.id)
        found = read(run).cells
        if len(found) != 1:
            made = ", ".join(c.id for c in found) or "none"
            raise UserError(
                f"{cell.id} of the baseline is one cell, and its grid has {len(found)} ({made}); give overrides that "
                "sweep nothing"
            )
        cells.append(replace(found[0], id=cell.id))
        _refuse_changed(model, cells)
    return Side(model, tuple(cells))


def _asked(cells: Sequence[Subject]) -> list[Subject]:
    """Cells with the rows that their suites have now, none of them answered; a suite of several is read once."""
    now: dict[str, dict[str, Any]] = {}
    for key, suite in {digest(c.config["suite"]): c.config["suite"] for c in cells}.items():
        data = load_suite(Component(**suite))
        rows = tuple(Row(str(r["id"]), example_hash(r), None, "", 0.0, False, {}) for r in data.evaluation)
        now[key] = {"scoring": data.scoring_digest, "rows": rows}
    return [replace(c, **now[digest(c.config["suite"])]) for c in cells]


def _refuse_changed(model: str, cells: Sequence[Subject]) -> None:
    """Raises `UserError` where cells are of other files of one model, or scored otherwise than an earlier part."""
    contents = {c.content for c in cells if c.content}
    if len(contents) > 1 or any(len({p.scoring for p in cells if p.id == c.id and p.scoring}) > 1 for c in cells):
        raise UserError(f"{model}: it, or its suite, changed while it was judged; run again when nothing writes there")


def _rows(cell: Subject, low: float, high: float) -> list[Row]:
    """The rows whose place in the fixed random order lies in [low, high)."""
    return [r for r in cell.rows if low <= r.place < high]


def within_budget(
    baseline: Side, rules: Rules, most_rows: float, measure: Callable[[Part, int], Side]
) -> tuple[Side, Judgement]:
    """Looks after each part until the verdict is certain; `measure` answers for a part and the number of its look. The
    last look is when about `most_rows` of each cell are in (at infinity: all), and the error rates hold for that."""
    everything = sum(len(c.rows) for c in baseline.cells)
    fullest = max((len(c.rows) for c in baseline.cells), default=0)
    if not everything:
        lost = ", ".join(f"{i} left no record" for i in baseline.missing) or "no cell has any"
        raise UserError(f"{baseline.source}: no rows to ask ({lost}); let that run end, or give another baseline")
    end = min(1.0, most_rows / fullest)
    planned = sum(len(_rows(c, 0.0, end)) for c in baseline.cells)
    if not planned:
        raise UserError(f"{baseline.source}: no rows lie within this budget; give --budget more rows")
    looks = rules.budget.looks
    parts: dict[str, list[Subject]] = {}
    shares: tuple[float, ...] = ()
    found: Judgement | None = None
    low = 0.0
    for at in range(1, looks + 1):
        high = end * at / looks
        asked = sum(len(_rows(c, 0.0, high)) for c in baseline.cells)
        if at < looks and asked == round(planned * (shares[-1] if shares else 0.0)):
            continue  # few groups: nothing new in this part
        made = measure((low, high), at)
        for cell in made.cells:
            parts.setdefault(cell.id, []).append(cell)
        _refuse_changed(made.source, [p for several in parts.values() for p in several])
        low = high
        share = 1.0 if at == looks else min(asked / planned, 1.0)
        if shares and share <= shares[-1]:
            shares = shares[:-1]
        shares = (*shares, share)
        cells = tuple(replace(c, rows=tuple(_rows(c, 0.0, high))) for c in baseline.cells)
        now = replace(baseline, cells=cells)
        candidate = Side("", tuple(joined(p) for p in parts.values()))
        found = judge(candidate, now, rules, Looks(shares, settled(found) if found else None, planned / everything))
        if certain(found) and (found.exit_code == 1 or len(parts) == len(baseline.cells)):
            break
    assert found is not None, "one look at least"
    return candidate, found
