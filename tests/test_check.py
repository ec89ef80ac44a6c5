"""The release gate from its command line: verdicts, exit codes, and what is never a pass."""

from __future__ import annotations

import json
import math
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from xml.etree import ElementTree

import pytest
import yaml

from harness.check import answers, outputs, rules, subject
from harness.check.__main__ import _parser, main
from harness.check.judge import Looks, judge
from harness.check.trial import Verdict
from harness.errors import UserError
from harness.overrides import misspelt
from harness.types import Measurement, RunRecord, Status
from tests import gates
from tests.gates import check, lines, rare, together, told, verdicts
from tests.grids import ROOT


def test_the_same_passes(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    assert check(tmp_path, baseline, gates.cell(made), made) == 0
    assert set(verdicts(tmp_path).values()) == {"pass"}


def test_a_drop_regresses(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = gates.worse(gates.rows(), 0.15)
    assert check(tmp_path, baseline, gates.cell(made), made) == 1
    assert verdicts(tmp_path)["quality/style"] == "regressed"
    assert "Regressed: quality/style (exit 1)" in capsys.readouterr().out


@pytest.mark.parametrize(("invented", "change", "code"), [(60, "+27.5 points (+21.9 to +32.5)", 1), (5, "+0.0", 0)])
def test_more_of_what_should_be_less_is_told_as_more(tmp_path: Path, invented: int, change: str, code: int) -> None:
    def run(name: str, bad: int) -> Path:
        made = [
            {**r, "scores": {**r["scores"], "invented": int(i < bad)}, "output": f"{r['output']} {i < bad}"}
            for i, r in enumerate(gates.rows())
        ]
        record = gates.cell(made)
        lower = tuple(replace(m, better="lower") if m.metric == "quality/invented" else m for m in record.measurements)
        return gates.run(tmp_path / name, (replace(record, measurements=lower), made))

    candidate, before = subject.read(run("candidate", invented)), subject.read(run("before", 5))
    found = judge(candidate, before, rules.load("strict"))
    (line,) = [x for x in outputs.lines(found) if x["metric"] == "quality/invented"]
    assert (line["before"], line["after"]) == ("2.5%", f"{invented / 2:.1f}%")
    assert line["change"].startswith(change)
    assert line["tolerated"].startswith("+")
    assert (line["verdict"], found.exit_code) == (("regressed", 1) if code else ("pass", 0))


def test_few_rows_are_inconclusive(tmp_path: Path) -> None:
    made = gates.rows(n=30)
    first = gates.run(tmp_path / "first", (gates.cell(made), made))
    changed = gates.worse(made, 0.04)
    assert check(tmp_path, first, gates.cell(changed), changed) == 3
    assert verdicts(tmp_path)["quality/style"] == "inconclusive"
    assert check(tmp_path, first, gates.cell(changed), changed, "--rules", "pull_request") == 0


def test_a_few_graded_rows_do_not_pass(tmp_path: Path) -> None:
    """Twelve rows of which one drops by a point vary so little that a t interval rules out five."""
    made = [{**r, "scores": {"style": 0.9}} for r in gates.rows(n=12)]
    now = [{**r, "scores": {"style": 0.9 - 0.01 * (i == 0)}, "output": f"{r['output']}!"} for i, r in enumerate(made)]
    first = gates.run(tmp_path / "first", (gates.cell(made), made))
    assert check(tmp_path, first, gates.cell(now), now, "--set", "validity.blocks=false") == 3
    (line,) = [x for x in lines(tmp_path) if x["trial"]["metric"] == "quality/style"]
    assert line["verdict"] == "inconclusive"
    assert line["sentence"].endswith("to pass it takes 59 rows, even if none is lost")


def test_few_rows_with_the_very_same_answers_pass(tmp_path: Path) -> None:
    """48 rows could not show that at most 5 points are lost, but here nothing came out otherwise."""
    made = gates.rows(n=48)
    first = gates.run(tmp_path / "first", (gates.cell(made), made))
    assert check(tmp_path, first, gates.cell(made), made) == 0
    other = [{**r, "output": r["output"] + "!"} for r in made]  # the same scores, by other words
    assert check(tmp_path, first, gates.cell(other), other) == 3


@pytest.mark.parametrize(
    ("change", "metric"),
    [
        ({"finished": False}, "ended"),
        ({"tokens": 160}, "output_tokens/mean"),
        ({"scores": {"style": 0}}, "quality/style"),
    ],
)
def test_the_same_texts_that_measure_otherwise_are_not_the_same(
    tmp_path: Path, baseline: Path, change: dict[str, Any], metric: str
) -> None:
    made = [{**r, **change} for r in gates.rows()]
    assert check(tmp_path, baseline, gates.cell(made), made) == 1
    assert verdicts(tmp_path)[metric] == "regressed"


def test_answers_that_do_not_end_are_invalid(tmp_path: Path, baseline: Path) -> None:
    made = [{**r, "finished": i % 3 > 0, "output": r["output"] + "..."} for i, r in enumerate(gates.rows())]
    assert check(tmp_path, baseline, gates.cell(made), made) == 1
    assert verdicts(tmp_path)["ended"] == "regressed"


def test_blank_answers_are_invalid(tmp_path: Path, baseline: Path) -> None:
    made = [{**r, "output": " \n" if i % 3 == 0 else r["output"]} for i, r in enumerate(gates.rows())]
    assert check(tmp_path, baseline, gates.cell(made), made) == 1
    assert verdicts(tmp_path)["ended"] == "regressed"


@pytest.mark.parametrize(("factor", "rows"), [(0.6, 200), (1.5, 200), (2, 12)])
def test_answers_of_other_lengths_regress(tmp_path: Path, factor: float, rows: int) -> None:
    """However few they are; how many it takes to pass says nothing of it."""
    before = gates.rows(n=rows)
    first = gates.run(tmp_path / "first", (gates.cell(before), before))
    made = [{**r, "tokens": factor * r["tokens"], "output": "other"} for r in before]
    assert check(tmp_path, first, gates.cell(made), made) == 1
    (line,) = (f for f in lines(tmp_path) if f["trial"]["metric"] == "output_tokens/mean")
    assert (line["verdict"], line["sentence"]) == ("regressed", "")


@pytest.mark.parametrize(("slower", "code", "verdict"), [(1.08, 0, "pass"), (1.4, 1, "regressed"), (0.5, 0, "pass")])
def test_times_need_a_factor(tmp_path: Path, baseline: Path, slower: float, code: int, verdict: str) -> None:
    made = gates.rows()
    assert check(tmp_path, baseline, gates.cell(made, slower=slower), made) == code
    assert verdicts(tmp_path)["e2e_ms"] == verdict


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.0, "pass"), (1.12, "pass"), (1.14, "pass"), (1.16, "regressed"), (1.3, "regressed")]
)
def test_steady_times_are_judged_by_the_factor(baseline: Path, ratio: float, verdict: str) -> None:
    """Shown to be beyond noise is not enough: the estimate must be nearer to the limit."""
    side = subject.read(baseline)
    times = tuple(1_000 + i for i in range(12))
    before = replace(side.cells[0], samples={"ttft_ms": times, "e2e_ms": times})
    now = replace(before, samples={**before.samples, "e2e_ms": tuple(ratio * t for t in times)})
    found = judge(subject.Side("now", (now,)), subject.Side("before", (before,)), rules.load("default"))
    assert {f.trial.metric: str(f.verdict) for f in found.findings}["e2e_ms"] == verdict


@pytest.mark.parametrize(
    ("slow", "fast", "asked", "drift", "code"),
    [
        ((2,), 0, 12, 1.0, 0),
        ((8,), 0, 66, 1.0, 1),  # of one round each counts
        ((2, 1, 1), 0, 22, 1.0, 0),
        ((4, 4, 4), 4, 22, 1.0, 0),
        ((2, 2, 1), 0, 22, 1.0, 3),
        ((0, 10, 1), 0, 22, 1.0, 0),  # one after the other
        ((10, 0, 3), 0, 22, 1.0, 3),
        ((4, 4, 4), 0, 22, 1.0, 1),
        ((4, 4, 4), 0, 22, 20, 3),
        ((0, 9, 0), 0, 16, 1.0, 0),  # to their own end, of which a round asks fewer
    ],
)
def test_a_hiccup_decides_nothing_and_a_slow_tail_does(
    baseline: Path, slow: tuple[int, ...], fast: int, asked: int, drift: float, code: int
) -> None:
    """Requests nine times as slow, or as fast, in each round: a few come by chance, as many of either come by chance,
    and many in one round alone may have come of one disturbance."""
    name, side = "e2e_natural_ms" if asked == 16 else "e2e_ms", subject.read(baseline)
    times = range(1_000, 1_000 + asked)
    timed = {**side.cells[0].timed, "requests": 22 if asked == 16 else asked}
    samples = {n: tuple(times) * len(slow) for n in ("ttft_ms", name)}
    samples = {"e2e_ms": (1_000,) * 66, **samples}
    before = replace(side.cells[0], drift=drift, timed=timed, samples=samples)
    some = tuple(t * 9 if i < n else t / 9 if i < n + fast else t for n in slow for i, t in enumerate(times))
    now = replace(before, samples={**before.samples, name: some})
    limits = rules.load("default", [f"latency.metrics=[ttft_ms,{name}]"])
    found = judge(subject.Side("now", (now,)), subject.Side("before", (before,)), limits)
    assert found.exit_code == code
    told = (
        f"{sum(slow)} of {len(some)} requests took over 1.2 times as long as the others did, "
        f"{fast * len(slow)} 1.2 times as short"
    )
    (line,) = (f.sentence for f in found.findings if f.trial.metric == name)
    assert (told in line) is (code > 0 and drift == 1)


@pytest.mark.parametrize(("slow", "code"), [((0, 10, 1), 0), ((4, 4, 4), 3)])
def test_rounds_are_each_compared_with_a_single_one(baseline: Path, slow: tuple[int, ...], code: int) -> None:
    side, times = subject.read(baseline), tuple(range(1_000, 1_022))
    timed = {**side.cells[0].timed, "requests": 22}
    before = replace(side.cells[0], timed=timed, samples={"ttft_ms": times, "e2e_ms": times})
    some = tuple(t * 9 if i < n else t for n in slow for i, t in enumerate(times))
    now = replace(before, samples={"ttft_ms": times * 3, "e2e_ms": some})
    found = judge(subject.Side("now", (now,)), subject.Side("before", (before,)), rules.load("default"))
    assert found.exit_code == code
    assert any(f"{sum(slow)} of 66 requests" in f.sentence for f in found.findings) is bool(code)


def test_one_of_many_tests_must_be_clearer(baseline: Path) -> None:
    """9 rows lost and 2 gained have p = 3.3% by themselves, which one in five metrics shows by chance often enough."""
    side, limits = subject.read(baseline), rules.load("default")
    rows = [replace(r, scores={"style": int(n >= 2)}) for n, r in enumerate(side.cells[0].rows[:96])]
    moved = [replace(r, answer="other", scores={"style": int(n < 2 or n >= 11)}) for n, r in enumerate(rows)]
    before, now = (subject.Side("", (replace(side.cells[0], rows=tuple(some)),)) for some in (rows, moved))
    (style,) = [f for f in judge(now, before, limits).findings if f.trial.metric == "quality/style"]
    assert (style.trial.pair.lost, style.trial.pair.gained) == (9, 2)  # type: ignore[union-attr]
    assert (style.verdict, round(style.p, 3)) == (Verdict.INCONCLUSIVE, 0.164)
    assert style.trial.p_worse == pytest.approx(0.0327, abs=1e-4)


def test_times_of_other_hardware_are_not_compared(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    record = gates.cell(made, slower=1.4)
    elsewhere = replace(record, environment={**record.environment, "hardware": "Another CPU, 64 cores"})
    assert check(tmp_path, baseline, elsewhere, made) == 3
    assert verdicts(tmp_path)["e2e_ms"] == "could not measure"
    assert verdicts(tmp_path)["memory_bytes/peak_rss"] == "could not measure"
    assert verdicts(tmp_path)["disk_bytes"] == "pass"
    assert check(tmp_path, baseline, elsewhere, made, "--rules", "answers_only") == 0


@pytest.mark.parametrize("knob", ["batch_size", "batch_tokens", "natural_requests", "clients", "open_requests"])
def test_memory_that_was_measured_otherwise_is_not_compared(tmp_path: Path, baseline: Path, knob: str) -> None:
    made = gates.rows()
    more = gates.measured(gates.cell(made), lambda m: replace(m, value=1.4 * m.value) if "memory" in m.metric else m)
    latency = {**more.config["measure"]["params"]["latency"], knob: 256}
    measure = {**more.config["measure"], "params": {"quality": {"part": None}, "latency": latency}}
    assert check(tmp_path, baseline, replace(more, config={**more.config, "measure": measure}), made) == 3
    (found,) = (f for f in lines(tmp_path) if f["trial"]["metric"] == "memory_bytes/peak_rss")
    assert (found["verdict"], found["sentence"]) == (
        "could not measure",
        f"timed otherwise: {knob} None before and 256 now",
    )
    assert verdicts(tmp_path)["e2e_ms"] == "pass", "which such knobs leave alone"


@pytest.mark.parametrize("same", [True, False])
def test_what_changed_beside_the_model_is_told(tmp_path: Path, baseline: Path, same: bool) -> None:
    """Knobs, where the cell is one and the same, and versions, where both sides know them."""
    made = gates.rows()
    record = gates.cell(made)
    engine = {**record.config["engine"], "target": "other.Engine", "params": {"temperature": 1.2, "new": 1}}
    before = replace(record, config={**record.config, "engine": {**engine, "params": {"temperature": 0.0, "old": 1}}})
    gates.run(tmp_path / "other", (before, made))
    assert main([str(tmp_path / "other"), "--save-baseline", str(baseline)]) == 0
    environment = {**record.environment, "versions": {**record.environment["versions"], "torch": "3.1.0"}}
    adaptation = "lora" if same else "full_ft"
    measure = {**record.config["measure"], "params": {"quality": {"part": [0, 1]}, "latency": {}}}
    config = {**record.config, "engine": engine, "measure": measure}
    now = replace(gates.cell(made, adaptation), environment=environment, config=config)
    check(tmp_path, baseline, now, made)
    knobs = "engine.temperature 0.0 before and 1.2 now, " if same else ""
    notes = [f"{now.id}: {knobs}versions.torch 2.9.0 before and 3.1.0 now"]
    assert json.loads((tmp_path / "second/check/check.json").read_text())["notes"] == notes
    side = subject.read(baseline)
    old = replace(side.cells[0], machine={**side.cells[0].machine, "versions": None})
    found = judge(subject.read(tmp_path / "second"), replace(side, cells=(old,)), rules.load("default"))
    assert found.notes == ((f"{now.id}: {knobs[:-2]}",) if same else ())


def test_a_machine_that_computes_in_other_numbers_is_told(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hosted CPU has bfloat16 one day and not the next, and the weights of an unchanged model are twice as large."""
    made = gates.rows()
    size = {"weights_bytes": 2}
    twice = gates.measured(gates.cell(made), lambda m: replace(m, value=size.get(m.metric, 1) * m.value))
    assert check(tmp_path, baseline, twice, made, "--rules", "answers_only") == 1
    other = replace(twice, environment={**twice.environment, "dtype": "float64"})
    assert check(tmp_path, baseline, other, made, "--rules", "answers_only") == 0
    assert (verdicts(tmp_path)["weights_bytes"], verdicts(tmp_path)["e2e_ms"]) == ("regressed", "could not measure")
    said, told = capsys.readouterr().out, f"computes in float64 now, {twice.environment['dtype']} before"
    assert f"{twice.id} {told}, so that some answers may differ without a change of yours" in said
    assert f"disk_bytes, weights_bytes: {told}\n" in said
    assert check(tmp_path, baseline, other, made) == 3, "times are not compared"


def test_times_of_another_version_of_the_timing_are_not_compared(tmp_path: Path) -> None:
    """A baseline from before versions were kept is: it says nothing of its own."""
    made = gates.rows()
    record = gates.cell(made, slower=1.4)

    def timed_by(version: int) -> RunRecord:
        latency = {**record.steps["latency"], "preimage": {"latency": version}}
        return replace(record, steps={**record.steps, "latency": latency})

    first, base = gates.run(tmp_path / "first", (timed_by(1), made)), tmp_path / "base.json"
    assert main([str(first), "--save-baseline", str(base)]) == 0
    for before in (first, base):
        assert check(tmp_path, before, timed_by(7), made) == 3
        (found,) = (f for f in lines(tmp_path) if f["trial"]["metric"] == "e2e_ms")
        assert found["verdict"] == "could not measure"
        assert found["sentence"] == "timed otherwise: version 1 before and 7 now"
        assert check(tmp_path, before, timed_by(1), made) == 0
    side = subject.read(base)
    earlier = replace(side.cells[0], timed={k: side.cells[0].timed[k] for k in subject.TIMED_ALIKE})
    candidate = subject.read(tmp_path / "second")
    assert judge(candidate, replace(side, cells=(earlier,)), rules.load("default")).exit_code == 0


def test_times_beside_other_work_show_no_regression(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    record = gates.cell(made, slower=1.4)
    latency = {**record.steps["latency"], "facts": {"noise": ["other processes kept 1.50 of 2 cores busy"]}}
    disturbed = replace(record, steps={**record.steps, "latency": latency})
    assert check(tmp_path, baseline, disturbed, made) == 3
    assert verdicts(tmp_path)["e2e_ms"] == "inconclusive"


def test_times_beside_other_work_do_not_pass(tmp_path: Path) -> None:
    """Nor is a candidate slow beside a baseline that was disturbed: on two cores other work made it a third faster."""
    made = gates.rows()
    record = gates.cell(made)
    latency = {**record.steps["latency"], "facts": {"noise": ["other processes kept 0.98 of 2 cores busy"]}}
    first = gates.run(tmp_path / "first", (replace(record, steps={**record.steps, "latency": latency}), made))
    for slower in (0.9, 1.4):
        assert check(tmp_path, first, gates.cell(made, slower=slower), made) == 3
        assert verdicts(tmp_path)["e2e_ms"] == "inconclusive"


def test_a_drifting_run_needs_more(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    record = gates.cell(made, slower=1.3)
    drift = Measurement("round_drift", 1.35, "×", "lower", 2)
    assert check(tmp_path, baseline, replace(record, measurements=(*record.measurements, drift)), made) == 3


@pytest.mark.parametrize("metric", ["disk_bytes", "weights_bytes", "memory_bytes/peak_rss"])
def test_sizes_have_a_limit(tmp_path: Path, baseline: Path, metric: str) -> None:
    made = gates.rows()

    def larger(m: Measurement) -> Measurement:
        return replace(m, value=1.2 * m.value) if m.metric == metric else m

    assert check(tmp_path, baseline, gates.measured(gates.cell(made), larger), made) == 1
    assert verdicts(tmp_path)[metric] == "regressed"


def test_a_partial_run_is_no_pass(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()[:-1]
    assert check(tmp_path, baseline, gates.cell(made), made) == 3
    assert verdicts(tmp_path)["rows"] == "could not measure"


def test_no_rows_are_no_pass(tmp_path: Path, baseline: Path) -> None:
    assert check(tmp_path, baseline, gates.cell(gates.rows()), []) == 3


@pytest.mark.parametrize("score", [math.nan, None, "yes", 7])
def test_a_score_that_is_no_share_is_no_pass(tmp_path: Path, baseline: Path, score: Any) -> None:
    made = gates.rows()
    made[3] = {**made[3], "scores": {**made[3]["scores"], "style": score}}
    assert check(tmp_path, baseline, gates.cell(gates.rows()), made) == 3
    assert verdicts(tmp_path)["quality/style"] == "could not measure"


def test_a_score_of_one_suite_is_not_asked_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = gates.rows()
    other = [{k: v for k, v in r.items() if k != "scores"} | {"scores": {"style": r["scores"]["style"]}} for r in made]
    cells = gates.cell(made), replace(gates.cell(other), id="m/lora/fp16/tool_json", suite="tool_json")
    run = gates.run(tmp_path / "second", (cells[0], made), (cells[1], other))
    for section in ("quality", "validity"):
        assert main([str(run), "--baseline", str(run), "--set", f"{section}.scores=[primary,facts]"]) == 0
        assert [f["trial"]["cell"] for f in lines(tmp_path) if f["trial"]["metric"] == "quality/facts"] == [cells[0].id]
    side = subject.read(run)
    side = replace(side, cells=tuple(replace(c, id=f"{c.id}{i}") for c in side.cells for i in range(4)))
    counted = Mock(side_effect=answers.scores_of_rows)
    monkeypatch.setattr(answers, "scores_of_rows", counted)
    judge(side, side, rules.load("default"))
    assert counted.call_count <= 3 * len(side.cells), "not each cell for each"
    monkeypatch.undo()
    gates.run(tmp_path / "second", (replace(cells[0], suite="tool_json"), made))
    assert main([str(run), "--baseline", str(run), "--set", "quality.scores=[primary,facts]"]) == 3, "of one suite"


def test_pass_and_fail_are_scores_like_one_and_zero(tmp_path: Path, baseline: Path) -> None:
    made = gates.worse(gates.rows(), 0.15)
    said = [{**r, "scores": {k: bool(v) for k, v in r["scores"].items()}} for r in gates.rows()]
    run = gates.run(tmp_path / "said", (gates.cell(said), said))
    assert main([str(run), "--baseline", str(run)]) == 0
    assert main([str(run), "--save-baseline", str(tmp_path / "said.json")]) == 0
    assert (tmp_path / "said.json").read_text() == baseline.read_text()
    assert check(tmp_path, tmp_path / "said.json", gates.cell(made), made) == 1
    assert verdicts(tmp_path)["quality/style"] == "regressed"


@pytest.mark.parametrize("saved", [True, False])
def test_a_score_of_all_rows_together_is_told_and_not_judged(
    tmp_path: Path, saved: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    first = gates.run(tmp_path / "first", together(gates.rows(), 200))
    if saved:
        assert main([str(first), "--save-baseline", str(tmp_path / "base.json")]) == 0
        first = tmp_path / "base.json"
    assert check(tmp_path, first, *together(gates.rows(), 0), "--rules", "strict") == 0
    (line,) = [x for x in lines(tmp_path) if x["trial"]["metric"] == "quality/macro_f1"]
    assert (line["trial"]["before"], line["trial"]["after"], line["trial"]["blocks"]) == (1.0, 0.0, False)
    assert "one number of all rows together, which cannot be compared row by row: not judged" in line["sentence"]
    for rules_of in ("quality", "validity"):
        named = ("--set", f"{rules_of}.scores=[macro_f1,style]")
        assert check(tmp_path, first, *together(gates.rows(), 0), *named) == 2
        assert "macro_f1 is one number of all rows together, so it cannot be compared row by row" in told(capsys)


def test_scores_together_are_told_without_numbers_where_a_part_of_the_rows_is_in(tmp_path: Path) -> None:
    """What a run of the first part measured is not what the baseline's run of all rows did."""
    side = subject.read(gates.run(tmp_path / "first", together(gates.rows(), 200)))
    for looks, value in ((Looks(), 1.0), (Looks((0.25,)), None), (Looks((0.25, 1.0)), None), (Looks(end=0.5), None)):
        found = outputs.as_json(judge(side, side, rules.load("strict"), looks))["findings"]
        (line,) = [x for x in found if x["trial"]["metric"] == "quality/macro_f1"]
        assert line["trial"]["before"] == value


def test_a_score_of_few_rows_blocks_where_it_is_named_or_worse(tmp_path: Path) -> None:
    made = gates.rows()
    first = gates.run(tmp_path / "first", (gates.cell(made), rare(made, 5)))
    now = rare(made, 5, end=" ")
    assert check(tmp_path, first, gates.cell(made), now, "--rules", "strict") == 0
    (line,) = [x for x in lines(tmp_path) if x["trial"]["metric"] == "quality/recall"]
    assert (line["verdict"], line["trial"]["blocks"]) == ("inconclusive", False)
    assert line["sentence"] == "5 rows are too few to show anything; to pass it takes 119 rows, even if none is lost"
    for named in ("quality.scores=[all,recall]", "quality.scores=[recall]"):
        assert check(tmp_path, first, gates.cell(made), now, "--rules", "strict", "--set", named) == 3
        assert verdicts(tmp_path)["quality/recall"] == "inconclusive"
    half = gates.run(tmp_path / "half", (gates.cell(made), rare(made, 40, 40)))
    assert check(tmp_path, half, gates.cell(made), rare(made, 0, 40, " "), "--rules", "strict") == 1
    assert verdicts(tmp_path)["quality/recall"] == "regressed"


def test_a_score_of_all_rows_blocks_however_few_they_are(tmp_path: Path) -> None:
    made = gates.rows(n=100)
    first = gates.run(tmp_path / "first", (gates.cell(made), made))
    other = [{**r, "output": r["output"] + " "} for r in made]
    assert check(tmp_path, first, gates.cell(other), other, "--rules", "strict") == 3
    blocking = {x["trial"]["metric"] for x in lines(tmp_path) if x["trial"]["blocks"] and x["verdict"] != "pass"}
    assert {"quality/style", "quality/facts", "quality/greeting"} <= blocking
    few = [{**r, "scores": {**r["scores"], "style": 1} if i < 50 else {"facts": 1}} for i, r in enumerate(gates.rows())]
    record = gates.measured(gates.cell(made), lambda m: None if m.metric.startswith("quality/") else m)
    first = gates.run(tmp_path / "few", (record, few))
    other = [{**r, "output": r["output"] + " "} for r in few]
    assert check(tmp_path, first, record, other, "--rules", "strict") == 3
    blocking = {x["trial"]["metric"] for x in lines(tmp_path) if x["trial"]["blocks"] and x["verdict"] != "pass"}
    assert blocking == {"quality/style"}, "the deciding score blocks, on whatever rows it is"


def test_few_rows_so_far_spare_no_score(tmp_path: Path) -> None:
    made = gates.rows()
    before, now = (subject.read(gates.run(tmp_path / e, (gates.cell(made), rare(made, 5, end=e)))) for e in ("a", "b"))
    for shares, blocks in (((0.5,), True), ((0.5, 1.0), False)):
        found = judge(now, before, rules.load("strict"), Looks(shares)).findings
        assert [f.trial.blocks for f in found if f.trial.metric == "quality/recall"] == [blocks]


@pytest.mark.parametrize("metric", ["disk_bytes", "memory_bytes/peak_rss", "e2e_ms/p50"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_number_that_is_none_is_no_pass(tmp_path: Path, baseline: Path, metric: str, gone: bool) -> None:
    made = gates.rows()

    def spoilt(m: Measurement) -> Measurement | None:
        if m.metric != metric:
            return m
        return None if gone else replace(m, value=math.nan, samples=tuple(math.nan for _ in m.samples))

    assert check(tmp_path, baseline, gates.measured(gates.cell(made), spoilt), made) == 3


@pytest.mark.parametrize("status", [Status.FAILED, Status.UNSUPPORTED])
def test_a_failed_cell_is_no_pass(tmp_path: Path, baseline: Path, status: Status) -> None:
    record = gates.cell(gates.rows(), status=status, reason="out of memory", measurements=())
    assert check(tmp_path, baseline, record, []) == 3


def test_a_verdict_names_the_cell_where_there_are_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, other = gates.rows(), gates.rows("full_ft")
    first = gates.run(tmp_path / "first", (gates.cell(made), made), (gates.cell(other, "full_ft"), other))
    bad = gates.worse(other, 0.3)
    second = gates.run(tmp_path / "second", (gates.cell(made), made), (gates.cell(bad, "full_ft"), bad))
    assert main([str(second), "--baseline", str(first)]) == 1
    assert "Regressed: quality/style (full_ft/fp16) (exit 1)" in capsys.readouterr().out


def test_a_score_that_some_rows_lack_in_both_runs_is_judged_by_the_others(tmp_path: Path) -> None:
    made = [{**r, "scores": {**r["scores"], "rare": 1 if i % 2 else None}} for i, r in enumerate(gates.rows())]
    record = gates.cell(gates.rows())
    first = gates.run(tmp_path / "first", (record, made))
    assert check(tmp_path, first, record, made, "--rules", "strict") == 0
    assert verdicts(tmp_path)["quality/rare"] == "pass"


def test_a_cell_still_to_come_is_no_pass(tmp_path: Path, baseline: Path) -> None:
    """One cell against one is matched whatever its name, but not one of a grid that has not ended."""
    made = gates.rows("lora", "gptq")
    run = gates.run(tmp_path / "second", (gates.cell(made, "lora", "gptq"), made))
    (run / "cells.json").write_text(json.dumps([gates.cell(made).id, gates.cell(made, "lora", "gptq").id]))
    assert main([str(run), "--baseline", str(baseline)]) == 3
    for cell in ((), ("--cell", "lora/fp16"), ("--cell", "lora/fp16", "--baseline-cell", gates.cell(gates.rows()).id)):
        assert main([str(run), "--baseline", str(tmp_path / "first"), *cell]) == 3
        assert verdicts(tmp_path) == {"cell": "could not measure"}
    assert main([str(tmp_path / "first"), "--baseline", str(run), "--baseline-cell", "lora/fp16"]) == 3
    assert main([str(run), "--cell", "lora/fp16", "--save-baseline", str(tmp_path / "cut.json")]) == 2
    (run / "cells.json").write_text(json.dumps([gates.cell(made, "lora", "gptq").id, "m/lora/awq/support_tone"]))
    assert main([str(run), "--baseline", str(baseline)]) == 2, "whatever comes, the baseline's cell does not"


@pytest.mark.parametrize("written", [False, True])
def test_rows_that_stand_there_twice_are_no_pass(tmp_path: Path, baseline: Path, written: bool) -> None:
    """Nor are they another run's, where the record was written of them as they stand."""
    made = gates.rows()
    again = {**made[-1], **{k: made[0][k] for k in ("id", "example_hash")}}
    several = [*made[:-1], again] if written else [*made, made[0], made[0]]
    assert check(tmp_path, baseline, gates.cell(several if written else made), several) == 3
    assert f"rows stand there twice ({made[0]['id']})" in [f["sentence"] for f in lines(tmp_path)]


def test_a_row_that_holds_what_is_none_is_told(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [{**r, "tokens": None} for r in gates.rows()]
    assert check(tmp_path, baseline, gates.cell(gates.rows()), made) == 2
    assert "holds what is none" in told(capsys)


@pytest.mark.parametrize("section", ["size", "memory", "latency"])
def test_a_section_may_ask_for_no_metrics(tmp_path: Path, baseline: Path, section: str) -> None:
    made = gates.rows()
    assert check(tmp_path, baseline, gates.cell(made), made, f"--set={section}.metrics=[]") == 0


def test_a_fault_of_the_harness_is_no_regression(
    tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise IndexError("of ours")

    monkeypatch.setattr("harness.check.__main__.judge", broken)
    made = gates.rows()
    assert check(tmp_path, baseline, gates.cell(made), made) == 70
    assert "IndexError: of ours" in told(capsys)


def test_an_earlier_verdict_does_not_outlive_a_judgement_that_breaks_off(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    out = tmp_path / "out"
    for more, folder in (((), tmp_path / "second/check"), (("--out", str(out)), out)):
        assert check(tmp_path, baseline, gates.cell(made), made, *more) == 0
        (folder / "notes.md").write_text("mine")
        assert check(tmp_path, tmp_path / "none.json", gates.cell(made), made, *more) == 2
        assert [p.name for p in folder.iterdir()] == ["notes.md"]
    (tmp_path / "file").write_text("")
    assert check(tmp_path, baseline, gates.cell(made), made, "--out", str(tmp_path / "file")) == 2


def test_nothing_that_blocks_is_no_pass(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    off = [f"--set={s}.blocks=false" for s in ("quality", "validity", "length", "latency", "memory", "size")]
    assert check(tmp_path, baseline, gates.cell(made), made, *off) == 3
    cases = ElementTree.parse(tmp_path / "second/check/junit.xml").findall("testsuite/testcase")
    assert [(c.get("classname"), e.text) for c in cases for e in c.findall("error")] == [
        ("gate", "No verdict: nothing that blocks was judged")
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["RUN"], "--baseline is missing"),
        (["RUN", "--baseline", "nowhere.json"], "or baseline; write one with `python -m harness.check RUN --save-base"),
        (["--baseline", "BASE"], "give one run folder"),
        (["RUN", "--baseline", "BASE", "--budget"], "--budget goes with --model"),
        (["RUN", "--baseline", "BASE", "--budget", "quantization=int8"], "overrides go with --model"),
        (["--model", "no/such", "--baseline", "BASE", "--budget", "quantization=int8"], "no such folder"),
        (["--model", "x", "--baseline", "BASE", "--budget", "--save-baseline", "NEW"], "leave --budget out"),
        (["RUN", "--save-baseline", "DIR"], "cannot be written (is a folder); give another file"),
        (["--model", "x", "--baseline", "BASE", "--out", "BASE/x"], "base.json is a file); give another folder"),
        (["--model", "x", "--baseline", "BASE", "--save-baseline", "BASE/x"], "base.json is a file); give another"),
        (["RUN", "--baseline", "BASE", "--model", "x"], "give one of the two"),
        (["RUN", "--baseline", "BASE", "quantization=int8"], "overrides go with --model"),
        (["--model", "no/such", "--baseline", "BASE"], "no such folder"),
        (["RUN", "--baseline", "BASE", "--cell", "no/such"], "not in"),
        (["RUN", "--baseline", "BASE", "--rules", "nope"], "there is answers_only, default, pull_request, strict"),
        (
            ["RUN", "--baseline", "BASE", "--set", "qualty.margin=1"],
            "--set qualty.margin: no such key; did you mean qual",
        ),
        (
            ["RUN", "--baseline", "BASE", "--set", "quality.margin=x"],
            "--set quality.margin: is 'x'; give a number from 0",
        ),
        (["RUN", "--baseline", "BASE", "--set", "quality.scores=[a"], "--set quality.scores=[a: cannot be read (while"),
        (["RUN", "--baseline", "BASE", "--set", "latency.limit=1.05"], "must lie above latency.noise"),
        (
            ["RUN", "--baseline", "BASE", "--set", "latency.noise=2"],
            "latency.noise: must lie below latency.limit",
        ),
        (
            ["RUN", "--baseline", "BASE", "--set", "quality.margin=???"],
            "cannot be read (quality.margin: ??? is",
        ),
        (["RUN", "--baseline", "BASE", "--set", "alpha"], "give KEY=VALUE"),
        (["RUN", "--baseline", "BASE", "--set", "size.metrics=[weight_bytes]"], "did you mean weights_bytes?"),
        (
            ["RUN", "--baseline", "BASE", "--set", "size.metrics=[disk_bytes,quality/macro_f1]"],
            "--set size.metrics: has no metric quality/macro_f1; there is disk_bytes, kv",
        ),
        (["RUN", "--baseline", "BASE", "--set", "latency.metrics=[e2e]"], "has no metric e2e; did you mean e2e_ms?"),
        (["nowhere", "--baseline", "BASE"], "no such run folder or baseline; give a run folder such as outputs/"),
        (["BASE", "--baseline", "RUN"], "base.json: is a file; give a run folder (a baseline goes to --baseline)"),
        (["RUN", "--save-baseline", "PIPE"], "/pipe: cannot be written (is no plain file); give another file"),
        (["RUN", "--baseline", "LONG"], "name too long; give a shorter one"),
        (["RUN", "--baseline", "BASE", "--rules", "LONG"], "name too long; give a shorter one"),
        (["LONG", "--baseline", "BASE"], "name too long; give a shorter one"),
        (["--model", "x", "--baseline", "BASE", "seed=0,1"], "seed=0,1: sweeps, and is for one cell; give one"),
        (["--model", "x", "--baseline", "BASE", "hydra.sweep.dir=y"], "has no effect here; runs go into a folder of"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, baseline: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RUN": str(tmp_path / "first"), "BASE": str(baseline), "BASE/x": f"{baseline}/x", "DIR": str(tmp_path)}
    places |= {"LONG": 300 * "x", "PIPE": str(tmp_path / "pipe")}
    os.mkfifo(tmp_path / "pipe")
    given = [places.get(a, a) for a in arguments]
    assert main(given) == 2
    assert words in told(capsys)
    assert (tmp_path / "pipe").is_fifo()


def test_rules_of_ones_own_need_only_what_differs(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("quality: {margin: 0.1}\nmemory: {blocks: false}\n", encoding="utf-8")
    usual, own = rules.load("default"), rules.load(str(mine), ["alpha=0.1"])
    assert own == replace(
        usual, name="mine with alpha=0.1", alpha=0.1, quality=replace(usual.quality, margin=0.1),
        memory=replace(usual.memory, blocks=False),
    )  # fmt: skip
    mine.write_text("validity:\n  margin: ${quality.margin}\n", encoding="utf-8")
    assert rules.load(str(mine)).validity.margin == usual.quality.margin
    mine.write_text("quality:\n  margin: ???\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"quality\.margin: \?\?\? is no value"):
        rules.load(str(mine))
    mine.write_text("memory: null\nalpah: 0.1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"alpah: unknown key(.|\n)*memory is None; give its keys"):
        rules.load(str(mine))


def test_the_workflow_of_the_documentation_is_one() -> None:
    """It keeps what a failed run has built, watches folders that exist, and gives commands that are understood."""
    text = (ROOT / "docs/release_gate.md").read_text(encoding="utf-8")
    flow = yaml.load(text.split("```yaml\n")[1].split("```")[0], yaml.BaseLoader)
    roots = {path.partition("/")[0] for path in flow["on"]["pull_request"]["paths"]}
    assert roots - {"baselines"} == {"conf", "suites"} <= {p.name for p in ROOT.iterdir()}
    steps = flow["jobs"]["check"]["steps"]
    (restore,) = [s["with"] for s in steps if s.get("uses", "").startswith("actions/cache/restore@")]
    (save,) = [s for s in steps if s.get("uses", "").startswith("actions/cache/save@")]
    assert (save["if"], save["with"]) == ("always()", {k: restore[k] for k in ("path", "key")})
    assert restore["key"].startswith(restore["restore-keys"])
    judged = [
        _parser().parse_args(shlex.split(line)[3:])
        for step in steps for line in step.get("run", "").splitlines() if "-m harness.check " in line
    ]  # fmt: skip
    assert {(a.baseline is None, a.save_baseline is None) for a in judged} == {(False, True), (True, False)}
    (grid,) = [step["run"] for step in steps if "-m harness +sweep" in step.get("run", "")]
    assert not misspelt(shlex.split(grid)[3:], ROOT / "conf")
    assert "thorough" not in grid
