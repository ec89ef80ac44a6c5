"""The release gate from its command line: verdicts, exit codes, and what is never a pass."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from xml.etree import ElementTree

import pytest
import yaml

from harness.check import answers, fresh, outputs, rules, subject
from harness.check.__main__ import _parser, main
from harness.check.judge import Looks, judge, matched
from harness.check.trial import Verdict
from harness.errors import UserError
from harness.overrides import misspelt
from harness.statistics import place
from harness.types import GROUPS, Measurement, RunRecord, Status
from tests import gates
from tests.grids import ROOT


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """A baseline file of one cell."""
    made = gates.rows()
    run = gates.run(tmp_path / "first", (gates.cell(made), made))
    assert main([str(run), "--save-baseline", str(tmp_path / "base.json")]) == 0
    return tmp_path / "base.json"


def check(tmp_path: Path, baseline: Path, record: RunRecord, made: gates.Rows, *more: str) -> int:
    run = gates.run(tmp_path / "second", (record, made))
    return main([str(run), "--baseline", str(baseline), *more])


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((tmp_path / "second/check/check.json").read_text())["findings"]
    return found


def verdicts(tmp_path: Path) -> dict[str, str]:
    return {f["trial"]["metric"]: f["verdict"] for f in lines(tmp_path)}


def test_the_same_passes(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    assert check(tmp_path, baseline, gates.cell(made), made) == 0
    assert set(verdicts(tmp_path).values()) == {"pass"}


def test_a_run_folder_is_a_baseline_too(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    assert check(tmp_path, tmp_path / "first", gates.cell(made), made) == 0


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


@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_answers_of_other_lengths_regress(tmp_path: Path, baseline: Path, factor: float) -> None:
    made = [{**r, "tokens": factor * r["tokens"], "output": "other"} for r in gates.rows()]
    assert check(tmp_path, baseline, gates.cell(made), made) == 1
    assert verdicts(tmp_path)["output_tokens/mean"] == "regressed"


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


def test_a_hiccup_decides_nothing(baseline: Path) -> None:
    side = subject.read(baseline)
    times = tuple(1_000 + i for i in range(12))
    before = replace(side.cells[0], samples={"ttft_ms": times, "e2e_ms": times})
    now = replace(before, samples={**before.samples, "e2e_ms": (9_000, 8_000, *times[2:])})
    found = judge(subject.Side("now", (now,)), subject.Side("before", (before,)), rules.load("default"))
    assert found.exit_code == 0


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


# ---------------------------------------------------------------------------------------------------- never a pass


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


def together(made: gates.Rows, right: int) -> tuple[RunRecord, gates.Rows]:
    """A run whose rows hold [true, predicted] of a macro-F1 too, so many of them right."""
    record = gates.cell(made)
    f1 = Measurement("quality/macro_f1", right / len(made), "share", "higher", len(made))
    pairs = [{**r, "scores": {**r["scores"], "macro_f1": ["a", "a" if i < right else "b"]}} for i, r in enumerate(made)]
    return replace(record, measurements=(*record.measurements, f1)), pairs


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


def rare(made: gates.Rows, passed: int, having: int = 5, end: str = "") -> gates.Rows:
    """Rows of which the first few alone have a score, as those of a rare class have its recall."""
    return [
        {**r, "output": r["output"] + end, "scores": {**r["scores"], "recall": int(i < passed)}}
        if i < having
        else {**r, "scores": {**r["scores"], "other": 1}}
        for i, r in enumerate(made)
    ]


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


def test_what_cannot_be_run_is_left_out_of_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A grid with such a cell ends well, so it can be a baseline, by its folder or as a file."""
    made = gates.rows()
    cannot = gates.cell(made, "lora", "gptq", status=Status.UNSUPPORTED, reason="no kernel", measurements=())
    first = gates.run(tmp_path / "first", (gates.cell(made), made), (cannot, []))
    saved = tmp_path / "b.json"
    assert main([str(first), "--save-baseline", str(saved)]) == 0
    assert f"{cannot.id} is left out of the baseline (unsupported: no kernel)" in capsys.readouterr().err
    for before in (first, saved):
        assert main([str(first), "--baseline", str(before)]) == 0
        assert f"{cannot.id} is not in the baseline, and was not judged" in capsys.readouterr().out
    worse = gates.rows("lora", "gptq")
    both = gates.run(tmp_path / "both", (gates.cell(made), made), (gates.cell(worse, "lora", "gptq"), worse))
    assert main([str(first), "--baseline", str(both)]) == 3, "the baseline's own could be run"


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


def test_a_missing_cell_is_no_pass(tmp_path: Path) -> None:
    made, other = gates.rows(), gates.rows("lora", "gptq")
    both = (gates.cell(made), made), (gates.cell(other, "lora", "gptq"), other)
    first = gates.run(tmp_path / "first", *both)
    assert check(tmp_path, first, *both[0]) == 3
    assert check(tmp_path, first, *both[0], "--cell", both[0][0].id) == 0
    assert verdicts(tmp_path)["quality/style"] == "pass"


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


def test_a_baseline_that_is_not_whole_is_no_pass(tmp_path: Path) -> None:
    made = gates.rows()
    first = gates.run(tmp_path / "first", (gates.cell(made), made))
    (first / "cells.json").write_text(json.dumps([gates.cell(made).id, "m/lora/awq/support_tone"]))
    assert check(tmp_path, first, gates.cell(made), made) == 3
    failed = gates.run(tmp_path / "failed", (gates.cell(made, status=Status.FAILED, reason="killed"), []))
    assert check(tmp_path, failed, gates.cell(made), made) == 3


def test_rows_that_stand_there_twice_are_no_pass(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    assert check(tmp_path, baseline, gates.cell(made), [*made, made[0], made[0]]) == 3


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


# ------------------------------------------------------------------------------------------------------ usage: exit 2


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_a_changed_row_is_another_suite(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = gates.rows()
    made[5] = {**made[5], "example_hash": "0" * 15 + "x"}
    assert check(tmp_path, baseline, gates.cell(made), made) == 2
    assert "1 evaluation rows changed since the baseline (row-005)" in told(capsys)


def test_a_new_row_is_another_suite(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = gates.rows(n=201)
    assert check(tmp_path, baseline, gates.cell(made), made) == 2
    assert "1 evaluation rows are new since the baseline (row-200)" in told(capsys)


def test_a_larger_profile_is_told_as_such(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = gates.rows(n=240)
    record = gates.cell(made)
    larger = replace(record, config={**record.config, "profile": "thorough"})
    assert check(tmp_path, baseline, larger, made) == 2
    assert "40 evaluation rows more than the baseline has, by profile=thorough; run it with profile=standard" in told(
        capsys
    )


def test_another_scorer_is_another_suite(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = gates.rows()
    record = gates.cell(made)
    quality = {**record.steps["quality"], "facts": {"scoring_digest": "e" * 16}}
    assert check(tmp_path, baseline, replace(record, steps={**record.steps, "quality": quality}), made) == 2
    assert "scored otherwise now" in told(capsys)


def test_another_deciding_score_is_refused_where_it_decides(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = gates.worse(gates.rows(), 0.3, "good")
    record = gates.cell(made)
    suite = {"name": "support_tone", "target": "", "params": {"primary": "good"}}
    other = replace(record, config={**record.config, "suite": suite})
    assert check(tmp_path, baseline, other, made) == 2
    assert (
        "the deciding score of support_tone is good now, style in the baseline; take a new baseline with "
        "--save-baseline, or name what is judged by --set quality.scores=[style]" in told(capsys)
    )
    for named, code in (("style", 0), ("good", 1)):
        assert check(tmp_path, baseline, other, made, "--set", f"quality.scores=[{named}]") == code


@pytest.mark.parametrize("of_record", [gates.worse(gates.rows(), 0.3), gates.rows(n=201)])
def test_rows_of_another_run_are_refused(
    tmp_path: Path, baseline: Path, of_record: gates.Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path, baseline, gates.cell(of_record), gates.rows()) == 2
    assert "are not those of its record (" in told(capsys)


def test_another_prompt_is_a_candidate_like_any(tmp_path: Path, baseline: Path) -> None:
    made = [{**r, "prompt_hash": "another", "prompt": "Be brief. " + r["prompt"]} for r in gates.rows()]
    assert check(tmp_path, baseline, gates.cell(made), made) == 0


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
        (["RUN", "--baseline", "BASE", "--set", "alpha"], "give KEY=VALUE"),
        (["RUN", "--baseline", "BASE", "--set", "size.metrics=[weight_bytes]"], "did you mean weights_bytes?"),
        (
            ["RUN", "--baseline", "BASE", "--set", "size.metrics=[disk_bytes,quality/macro_f1]"],
            "--set size.metrics: has no metric quality/macro_f1; there is disk_bytes, kv",
        ),
        (["RUN", "--baseline", "BASE", "--set", "latency.metrics=[e2e]"], "has no metric e2e; did you mean e2e_ms?"),
        (["nowhere", "--baseline", "BASE"], "no such run folder or baseline; give a run folder such as outputs/"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, baseline: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RUN": str(tmp_path / "first"), "BASE": str(baseline), "BASE/x": f"{baseline}/x", "DIR": str(tmp_path)}
    given = [places.get(a, a) for a in arguments]
    assert main(given) == 2
    assert words in told(capsys)


def test_rules_of_ones_own_need_only_what_differs(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("quality: {margin: 0.1}\nmemory: {blocks: false}\n", encoding="utf-8")
    usual, own = rules.load("default"), rules.load(str(mine), ["alpha=0.1"])
    assert own == replace(
        usual, name="mine with alpha=0.1", alpha=0.1, quality=replace(usual.quality, margin=0.1),
        memory=replace(usual.memory, blocks=False),
    )  # fmt: skip
    mine.write_text("memory: null\nalpah: 0.1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"alpah: unknown key(.|\n)*memory is None; give its keys"):
        rules.load(str(mine))


# ------------------------------------------------------------------------------------------------------ baseline files


def test_a_baseline_says_what_its_run_says(tmp_path: Path, baseline: Path) -> None:
    (kept,), (run,) = subject.read(baseline).cells, subject.read(tmp_path / "first").cells
    assert {r.id: replace(r, shown={}) for r in run.rows} == {r.id: r for r in kept.rows}
    assert kept.samples["e2e_ms"] == pytest.approx(run.samples["e2e_ms"], abs=1e-3)
    assert replace(kept, rows=(), samples={}) == replace(run, rows=(), samples={})


def test_the_same_again_is_within_a_limit_of_one(tmp_path: Path) -> None:
    made = gates.rows()
    size = {"disk_bytes": 269_060_400.0, "weights_bytes": 1e9 / 3}
    record = gates.measured(gates.cell(made), lambda m: replace(m, value=size.get(m.metric, m.value)))
    run, base = gates.run(tmp_path / "first", (record, made)), tmp_path / "base.json"
    assert main([str(run), "--save-baseline", str(base)]) == 0
    assert check(tmp_path, base, record, made, "--set=size.limit=1", "--set=memory.limit=1") == 0


def test_a_baseline_is_small_and_one_changed_row_is_one_changed_line(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    made[7] = {**made[7], "output": "Other words."}
    run = gates.run(tmp_path / "second", (gates.cell(made), made))
    assert main([str(run), "--save-baseline", str(tmp_path / "other.json")]) == 0
    before, after = baseline.read_text().split("\n"), (tmp_path / "other.json").read_text().split("\n")
    row, digest = (a.strip() for b, a in zip(before, after, strict=True) if a != b)
    assert row.startswith('"row-007": [')
    assert digest.startswith('"digest": ')
    assert len(baseline.read_bytes()) < 150 * 200 + 6_000


def test_a_baseline_names_no_group_and_keeps_its_place(tmp_path: Path) -> None:
    made = [{**r, "group": f"Acme Ltd {i // 2}" if i % 4 else None} for i, r in enumerate(gates.rows(n=20))]
    run, base = gates.run(tmp_path / "first", (gates.cell(made), made)), tmp_path / "base.json"
    assert main([str(run), "--save-baseline", str(base)]) == 0
    assert "Acme" not in base.read_text()
    places = {r["id"]: place(r) for r in made}
    for side in (subject.read(run), subject.read(base)):
        assert {r.id: r.place for r in side.cells[0].rows} == places
        assert len({r.group for r in side.cells[0].rows}) == len({r["group"] for r in made})


def test_an_edited_or_merged_baseline_is_refused(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(baseline.read_text())
    (cell,) = data["cells"].values()
    cell["rows"]["row-000"][3][0] = 0
    run = ("--baseline", str(baseline), str(tmp_path / "first"))
    for spoilt in (data, {k: v for k, v in data.items() if k != "digest"}):
        baseline.write_text(json.dumps(spoilt))
        assert main([*run]) == 2
        assert "edited or merged since it was written; save it again with --save-baseline" in told(capsys)
    baseline.write_text(json.dumps({**data, "schema": 1}))
    assert main([*run]) == 2
    assert "baseline schema 1, this version reads 2; save it again with --save-baseline" in told(capsys)


@pytest.mark.parametrize("bad", ["missing", "failed", "nan", "tokens", "part", "rows", "twice"])
def test_a_baseline_must_be_whole(tmp_path: Path, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = gates.rows(n=20)
    record = gates.cell(made)
    if bad == "failed":
        record = replace(record, status=Status.FAILED, reason="killed")
    if bad == "nan":
        made[0]["scores"]["style"] = math.nan
    if bad == "tokens":
        made[0]["tokens"] = math.nan
    if bad == "twice":
        made.append({**made[0], "output": "Other words."})
    if bad == "part":
        knobs = {"name": "default", "target": "", "params": {"quality": {"part": [0.0, 0.5]}, "latency": {}}}
        record = replace(record, config={**record.config, "measure": knobs})
    run = gates.run(tmp_path / "run", (record, [] if bad == "rows" else made))
    if bad == "missing":
        (run / "cells.json").write_text(json.dumps([record.id, "m/lora/awq/support_tone"]))
    assert main([str(run), "--save-baseline", str(tmp_path / "base.json")]) == 2
    assert not (tmp_path / "base.json").exists()
    words = {"twice": "row row-000 stands there twice; run the grid again", "tokens": "of row row-000 is no number"}
    assert words.get(bad, "") in (line := told(capsys))
    assert line.count("harness: ") == 1


def test_a_baseline_whose_times_cannot_be_judged_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even the same run again would pass it: three requests, or times that were taken beside other work."""
    made = gates.rows()
    steady = gates.cell(made)
    few = gates.measured(steady, lambda m: replace(m, samples=m.samples[:3]))
    busy = {**steady.steps, "latency": {**steady.steps["latency"], "facts": {"noise": ["other work: 4.1 of 2 cores"]}}}
    for name, record, why in (
        ("steady", steady, ""), ("few", few, "3 requests are too few, or vary too much; take it again"),
        ("busy", replace(steady, steps=busy), "other work: 4.1 of 2 cores; take it again on a quiet machine"),
    ):  # fmt: skip
        run = gates.run(tmp_path / name, (record, made))
        keep = [str(run), "--save-baseline", str(tmp_path / f"{name}.json")]
        assert main(keep) == 0
        said = capsys.readouterr().err
        assert (why in said) if why else not said
        assert not why or f"harness: warning: {record.id}: ttft_ms, e2e_ms of this baseline cannot be judged" in said
        assert main([str(run), "--baseline", str(tmp_path / f"{name}.json")]) == (3 if why else 0)
        capsys.readouterr()
        assert main([*keep, "--rules", "answers_only"]) == 0
        assert not capsys.readouterr().err


def test_a_baseline_moves_on_only_where_it_passes(tmp_path: Path, baseline: Path) -> None:
    made = gates.worse(gates.rows(), 0.15)
    assert check(tmp_path, baseline, gates.cell(made), made, "--save-baseline", str(tmp_path / "next.json")) == 1
    assert not (tmp_path / "next.json").exists()
    made = gates.rows()
    assert check(tmp_path, baseline, gates.cell(made), made, "--save-baseline", str(tmp_path / "next.json")) == 0
    assert (tmp_path / "next.json").read_text() == baseline.read_text()


def test_a_baseline_does_not_move_down_in_its_place(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss within the margin that is shown to be one: to another file it is kept, and told. A gain moves it."""
    made, before, other = gates.worse(gates.rows(), 0.04), baseline.read_text(), tmp_path / "next.json"
    moved = ("--set", "quality.margin=0.1", "--save-baseline")
    told = "shown to be worse{}: quality/style −4.0 points (−6.5 to −1.4)"
    capsys.readouterr()
    assert check(tmp_path, baseline, gates.cell(made), made, *moved, f"{tmp_path}/first/../base.json") == 0
    assert f"not saved, the candidate passes and is {told.format('')}; the old one stays" in capsys.readouterr().out
    assert baseline.read_text() == before
    assert check(tmp_path, baseline, gates.cell(made), made, *moved, str(other)) == 0
    assert f"{other}, {told.format(f' than {baseline}')}\n" in capsys.readouterr().out
    assert other.read_text() != before
    for made in (gates.rows(), gates.worse(gates.rows(), 0.005)):
        assert check(tmp_path, other, gates.cell(made), made, "--save-baseline", str(other)) == 0
        assert (other.read_text() == before) is (made == gates.rows()), "one row lost shows nothing"


def test_a_baseline_with_too_few_groups_to_pass_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [{**r, "group": f"g{i // 3}"} for i, r in enumerate(gates.rows())]
    run, base = str(gates.run(tmp_path / "run", (gates.cell(made), rare(made, 5)))), str(tmp_path / "b.json")
    assert main([run, "--save-baseline", base]) == 0
    assert not told(capsys)
    assert main([run, "--save-baseline", base, "--rules", "strict"]) == 0
    said = told(capsys)
    assert "style, wording, ended: 67 groups of rows, and it takes 119 for a candidate to pass" in said
    assert "that answers in other words and scores the same; give more rows" in said
    assert "recall" not in said, "which blocks nothing"
    warned = ["--set", "inconclusive=warn", "--set", "quality.scores=[nosuch]"]
    for more in (warned[:2], warned[2:]):
        assert main([run, "--save-baseline", base, "--rules", "strict", *more]) == 0
        assert "nosuch" not in (said := told(capsys))
        assert ("style" in said, "ended" in said) == (False, more[1] != "inconclusive=warn")
    whole, pairs = together(gates.rows(), 200)
    suite = {"name": "support_tone", "target": "", "params": {"primary": "macro_f1"}}
    run = str(gates.run(tmp_path / "f1", (replace(whole, config={**whole.config, "suite": suite}), pairs)))
    assert main([run, "--save-baseline", base]) == 0
    assert "macro_f1 is one number of all rows together, so it cannot be compared row by row" in told(capsys)
    assert main([run, "--baseline", base, "--set", "quality.scores=[style]"]) == 0


def test_a_baseline_that_cannot_be_saved_is_told_before_a_verdict(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = gates.rows()
    made[0]["scores"]["facts"] = math.nan
    capsys.readouterr()
    more = ("--save-baseline", str(tmp_path / "next.json"))
    assert check(tmp_path, baseline, gates.cell(gates.rows()), made, *more) == 2
    assert not capsys.readouterr().out
    more = ("--save-baseline", str(baseline / "next.json"))
    assert check(tmp_path, baseline, gates.cell(gates.rows()), gates.rows(), *more) == 2
    assert told(capsys).endswith(f"/next.json: cannot be written ({baseline} is a file); give another file\n")
    assert not (tmp_path / "second/check").exists()
    more = ("--save-baseline", str(tmp_path / "next.json"))
    out = ("--out", str(baseline / "out"))
    assert check(tmp_path, baseline, gates.cell(gates.rows()), gates.rows(), *more, *out) == 2
    assert not (tmp_path / "next.json").exists(), "no verdict is no pass"


def test_a_baseline_moves_on_to_the_cells_that_were_judged(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever else the grid holds: that it failed is no matter of this baseline, and that it ended is no pass."""
    made = gates.rows()
    failed = gates.cell(made, "lora", "gptq", status=Status.FAILED, reason="killed")
    cells: list[tuple[RunRecord, gates.Rows]] = [
        (gates.cell(made), made),
        (failed, []),
        (gates.cell(made, "full_ft"), made),
    ]
    second = gates.run(tmp_path / "second", *cells)
    (second / "cells.json").write_text(json.dumps([gates.cell(made).id, "m/lora/awq/support_tone"]))
    capsys.readouterr()
    assert main([str(second), "--baseline", str(baseline), "--save-baseline", str(tmp_path / "next.json")]) == 0
    assert (tmp_path / "next.json").read_text() == baseline.read_text()
    assert not told(capsys)


def test_a_baseline_does_not_move_on_to_what_was_only_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = gates.rows(n=30)
    first = gates.run(tmp_path / "first", (gates.cell(made), made))
    changed = gates.worse(made, 0.04)
    more = ("--rules", "pull_request", "--save-baseline", str(tmp_path / "next.json"))
    assert check(tmp_path, first, gates.cell(changed), changed, *more) == 0
    assert not (tmp_path / "next.json").exists()
    assert "baseline: not saved, quality/style" in capsys.readouterr().out


def test_one_cell_does_not_take_the_place_of_a_baseline_of_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, two = gates.rows(), tmp_path / "two.json"
    cells = [(gates.cell(made, a), made) for a in ("lora", "full_ft")]
    run, cell = str(gates.run(tmp_path / "run", *cells)), cells[0][0].id
    assert main([run, "--save-baseline", str(two)]) == 0
    before = two.read_text()
    for named in (["--cell", cell], ["--cell", cell, "--baseline-cell", cell]):
        assert main([run, "--baseline", str(two), *named, "--save-baseline", str(two)]) == 2
        assert "holds 2 cells" in told(capsys)
    assert two.read_text() == before
    assert main([run, "--baseline", str(two), "--cell", cell, "--save-baseline", str(tmp_path / "one.json")]) == 0
    one = ["--baseline", str(tmp_path / "one.json"), "--cell", cell, "--save-baseline", str(tmp_path / "one.json")]
    assert main([run, *one]) == 0


# ------------------------------------------------------------------------------------------------------ matching, fresh


def test_one_cell_is_matched_with_one(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    assert check(tmp_path, baseline, gates.cell(made, "lora", "gptq"), made) in (0, 1)
    assert verdicts(tmp_path)["disk_bytes"] == "pass"


def test_a_cell_of_another_name_is_named(tmp_path: Path) -> None:
    made = gates.rows()
    cells = [(gates.cell(made, "lora", q), made) for q in ("fp16", "int8")]
    run = gates.run(tmp_path / "second", *cells)
    ids = [record.id for record, _ in cells]
    argv = [str(run), "--baseline", str(run), "--cell", ids[1], "--baseline-cell", ids[0], "--rules", "answers_only"]
    assert main(argv) == 0
    side = subject.read(run)
    assert [(a.id if a else None, b.id) for a, b in matched(side, side)] == [(i, i) for i in ids]


def test_a_cell_may_be_named_as_reports_name_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = gates.rows()
    cells = [(gates.cell(made, "lora", q), made) for q in ("fp16", "int8")]
    run, base = str(gates.run(tmp_path / "run", *cells)), str(tmp_path / "base.json")
    assert main([run, "--save-baseline", base]) == 0
    short = ["--cell", "lora/int8", "--baseline-cell", "lora/fp16", "--rules", "answers_only"]
    assert main([run, "--baseline", base, *short]) == 0
    assert [c.id for c in subject.read(Path(base)).only("lora/int8", "--cell").cells] == [cells[1][0].id]
    assert main([run, "--baseline", base, "--cell", "lora/awq"]) == 2
    assert told(capsys) == f"harness: --cell lora/awq: not in {base}; there is lora/fp16, lora/int8\n"


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
    assert main(["--model", str(tmp_path), "--baseline", str(baseline), "quantization=int8,gptq"]) == 2
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
