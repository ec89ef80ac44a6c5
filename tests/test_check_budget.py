"""The gate that runs grids itself: a fresh checkpoint, and a budget of rows that ends when the verdict is certain."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.check import fresh, outputs, rules, subject
from harness.check.__main__ import main
from harness.check.trial import Verdict
from harness.types import GROUPS, Status
from tests import gates
from tests.gates import together, told


def test_overrides_are_read_back_as_they_were() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    values = {"a": None, "b": True, "c": 1e-5, "d": 'it\'s a "test": x=1, y', "e": [1, 8], "f": {"g": "x"}, "h": "C:\\"}
    part = {"name": "lora", "target": "", "params": values}
    config = dict.fromkeys(GROUPS, part) | {"seed": 3, "profile": "quick"}
    made = fresh.overrides(config, "/a b/c=d", ["engine=eager", "adaptation.c=0.5"])
    parsed = OverridesParser.create().parse_overrides(made)
    found = {o.key_or_group: o.value() for o in parsed}

    def plain(value: Any) -> Any:
        return value.text if hasattr(value, "text") else value

    assert plain(found["model.id"]) == "/a b/c=d"
    assert [plain(found[f"suite.{k}"]) for k in "abcdeh"] == [values[k] for k in "abcdeh"]
    assert plain(found["suite.f.g"]) == "x"
    assert found["adaptation.c"] == 0.5
    assert "++suite.b=true" in made, "given too where the choice no longer has such a knob"
    assert not any(o.startswith("engine.") for o in made)
    assert found["seed"] == 3
    assert found["profile.aa_control"] is False, "its second cell is in no baseline"
    asked = fresh.overrides(config, "/a", ["profile.aa_control=true"])
    assert [o for o in asked if "aa_control" in o] == ["profile.aa_control=true"]
    policy = {"++policy.service_level=null", "++policy.metric=null", "++policy.suites=null"}
    assert policy <= {*made}, "a team's own bars and weighs what a gate may not have"
    assert policy - {*fresh.overrides(config, "/a", ["policy.metric=x"])} == {"++policy.metric=null"}


@pytest.mark.parametrize("quantizations", [(), ("int8", "gptq")])
def test_a_fresh_checkpoint_is_one_cell_for_each_of_the_baseline(
    tmp_path: Path, baseline: Path, quantizations: Sequence[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = gates.rows()
    cells = [(gates.cell(made, "lora", q), made) for q in quantizations]
    monkeypatch.setattr(fresh, "grid", lambda arguments, run, cell: gates.run(run, *cells))
    monkeypatch.setattr(fresh, "_asked", lambda cells: cells)
    monkeypatch.chdir(tmp_path)
    assert main(["--model", str(tmp_path), "--baseline", str(baseline), "+sweep=mine"]) == 2
    assert f"has {len(cells)} (" in told(capsys)


@pytest.mark.parametrize(
    ("given", "rows", "own"),
    [
        (["--budget", "adaptation=as_is"], math.inf, ["adaptation=as_is"]),
        (["--budget", "adaptation=as_is", "seed=1"], math.inf, ["seed=1", "adaptation=as_is"]),
        (["adaptation=as_is", "--budget", "120"], 120, ["adaptation=as_is"]),
        (["--budget=120", "adaptation=as_is"], 120, ["adaptation=as_is"]),
        ([f"suite.system={300 * 'x'}", "--budget"], math.inf, [f"suite.system={300 * 'x'}"]),
    ],
)
def test_a_budget_leaves_overrides_to_the_grid(
    tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], rows: float, own: list[str]
) -> None:
    seen: list[Any] = []

    def evaluate(model: str, base: subject.Side, changes: Sequence[str], out: Path, part: fresh.Part) -> subject.Side:
        seen.append(list(changes))
        return subject.Side("", tuple(replace(c, rows=tuple(fresh._rows(c, *(part or (0, 1))))) for c in base.cells))

    def within_budget(base: subject.Side, limits: rules.Rules, most: float, measure: Any) -> Any:
        seen.append(most)
        return whole(base, limits, most, measure)

    whole = fresh.within_budget
    monkeypatch.setattr(fresh, "evaluate", evaluate)
    monkeypatch.setattr(fresh, "within_budget", within_budget)
    monkeypatch.chdir(tmp_path)
    assert main(["--model", str(tmp_path), "--baseline", str(baseline), *given]) == 0
    assert seen[:2] == [rows, own]


def test_a_budget_of_a_baseline_without_rows_says_why(
    tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "first/cells.json").write_text(json.dumps([gates.cell(gates.rows()).id, "m/lora/awq/support_tone"]))
    monkeypatch.chdir(tmp_path)
    assert main(["--model", ".", "--baseline", "first", "--cell", "m/lora/awq/support_tone", "--budget", "120"]) == 2
    assert "first: no rows to ask (m/lora/awq/support_tone left no record); let that run end" in told(capsys)


def test_a_budget_that_is_no_number_is_told(baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", "x", "--baseline", str(baseline), "--budget"]
    assert main([*asked, "many"]) == 2
    assert "'many' is no number of rows" in told(capsys)
    for rows in ("0", "-5"):
        assert main([*asked, rows]) == 2
        assert told(capsys) == f"harness: --budget {rows}: give a number of rows above 0, or none for all\n"


def test_a_budget_stops_when_the_verdict_is_certain(baseline: Path) -> None:
    side, limits = subject.read(baseline), rules.load("default")
    asked: list[tuple[float, float]] = []

    def measure(rows: tuple[subject.Row, ...]) -> Any:
        cell = replace(side.cells[0], rows=rows)

        def part(given: fresh.Part, look: int) -> subject.Side:
            assert given
            asked.append(given)
            return subject.Side("", (replace(cell, rows=tuple(fresh._rows(cell, *given))),))

        return part

    candidate, found = fresh.within_budget(side, limits, math.inf, measure(side.cells[0].rows))
    assert (found.exit_code, len(asked)) == (0, 2)
    assert asked == [(0.0, 0.25), (0.25, 0.5)]
    assert 0.35 < found.share < 0.65
    assert len(candidate.cells[0].rows) == round(found.share * 200)
    bad = tuple(replace(r, finished=False, answer="") for r in side.cells[0].rows)
    asked.clear()
    _, found = fresh.within_budget(side, limits, math.inf, measure(bad))
    assert (found.exit_code, len(asked)) == (1, 1)
    asked.clear()
    few = tuple(
        replace(r, answer="", scores={**r.scores, "style": 0}) if n % 25 == 0 else r
        for n, r in enumerate(side.cells[0].rows)
    )
    candidate, found = fresh.within_budget(side, limits, 100, measure(few))
    assert asked[-1][1] == 0.5
    assert found.share == len(candidate.cells[0].rows) / 200
    assert not found.having(Verdict.NOT_MEASURED)


@pytest.mark.parametrize("looks", [1, 4])
@pytest.mark.parametrize(("most", "code"), [(10, 3), (80, 0), (200, 0)])
def test_a_budget_of_some_rows_is_not_all_of_them(tmp_path: Path, looks: int, most: int, code: int) -> None:
    """That the few rows asked were answered alike says little of the others; nor is their macro-F1 one of all."""
    side = subject.read(gates.run(tmp_path / "first", together(gates.rows(), 200)))
    limits = rules.load("answers_only", [f"budget.looks={looks}", "quality.scores=[primary,all]"])

    def measure(part: fresh.Part, look: int) -> subject.Side:
        assert part
        return subject.Side("", (replace(side.cells[0], rows=tuple(fresh._rows(side.cells[0], *part))),))

    candidate, found = fresh.within_budget(side, limits, most, measure)
    asked = len(candidate.cells[0].rows)
    assert (found.exit_code, found.share) == (code, asked / 200)
    assert outputs.subtitle(found).endswith("% of the rows were asked") is (asked < 200)
    (told,) = [f.trial for f in found.findings if f.trial.metric == "quality/macro_f1"]
    assert (told.after == 1.0) is (asked == 200 and looks == 1)


def test_a_budget_does_not_wait_for_cells_that_cannot_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baseline: Path
) -> None:
    made = gates.rows()
    cannot = gates.cell(made, "lora", "gptq", status=Status.UNSUPPORTED, reason="no kernel", measurements=())
    both = gates.run(tmp_path / "both", (gates.cell(made), made), (cannot, []))
    run = subject.read(tmp_path / "first")
    seen: list[list[str]] = []

    def evaluate(model: str, base: subject.Side, changes: Sequence[str], out: Path, part: fresh.Part) -> subject.Side:
        assert part
        seen.append([c.id for c in base.cells])
        return subject.Side("", tuple(replace(c, rows=tuple(fresh._rows(c, *part))) for c in run.cells))

    monkeypatch.setattr(fresh, "evaluate", evaluate)
    monkeypatch.chdir(tmp_path)
    assert main(["--model", str(tmp_path), "--baseline", str(both), "--budget"]) == 0
    assert seen == 2 * [[gates.cell(made).id]]


def test_a_budget_waits_for_cells_whose_rows_come_late(baseline: Path) -> None:
    side, limits = subject.read(baseline), rules.load("default")
    (cell,) = side.cells
    late = tuple(r for r in cell.rows if r.place >= 0.75)
    both = subject.Side("", (cell, replace(cell, id="late", rows=late)))
    looks: list[int] = []

    def measure(part: fresh.Part, look: int) -> subject.Side:
        assert part
        looks.append(look)
        some = ((c, tuple(fresh._rows(c, *part))) for c in both.cells)
        return subject.Side("", tuple(replace(c, rows=rows) for c, rows in some if rows))

    _, found = fresh.within_budget(both, limits, math.inf, measure)
    assert looks == [1, 2, 3, 4]
    assert (found.exit_code, found.share) == (0, 1.0)
