"""Runs are compared on the same rows or not at all, and every field that stands in the way is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import compare, escaping, ledger
from harness.decide.policy import P95
from harness.decide.twins import Twins
from harness.errors import UserError
from harness.report import against
from harness.report.__main__ import main
from harness.types import Measurement, RunRecord, Status
from tests import records
from tests.pages import HOSTILE, Page, folder

CELL = records.cell_id("lora", "int8")
Changed = Callable[[RunRecord], RunRecord]


def run(path: Path, change: Changed = lambda r: r, rows: dict[str, list[dict[str, Any]]] | None = None) -> Path:
    """The made-up grid as a run folder, measured there and each record changed."""
    cells, made = records.grid()
    return folder(path, [change(measured(r, path.name)) for r in cells], made | (rows or {}), records.ids())


def measured(r: RunRecord, where: str) -> RunRecord:
    """A record whose measurements are steps of their own."""
    own = {kind: {**r.steps[kind], "key": f"{where} {kind} {r.id}"} for kind in ("quality", "latency")}
    return with_rows("1")(replace(r, steps={**r.steps, **own}))


def with_rows(digest: str) -> Changed:
    return lambda r: replace(r, steps={**r.steps, "quality": {**r.steps["quality"], "preimage": {"rows": digest}}})


def with_environment(**changes: Any) -> Changed:
    return lambda r: replace(r, environment={**r.environment, **changes})


def with_config(group: str, **params: Any) -> Changed:
    def change(r: RunRecord) -> RunRecord:
        part = dict(r.config[group])
        part["params"] = {**part["params"], **params}
        return replace(r, config={**r.config, group: part})

    return change


def worse(cell: str, lost: int) -> dict[str, list[dict[str, Any]]]:
    """A cell's rows of which so many that passed do not any more."""
    made = {r.id: records.rows(r.adaptation, r.quantization) for r in records.grid()[0]}[cell]
    for row in [r for r in made if r["scores"]["good"]][:lost]:
        row["scores"] = row["scores"] | {"good": 0}
        row["output"] = "a broken answer"
    return {cell: made}


def told(folders: list[Path], *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([*map(str, folders), *arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_runs_are_compared_by_what_their_policy_judges(tmp_path: Path) -> None:
    def by(**changes: Any) -> Changed:
        return lambda r: replace(r, config={**r.config, "policy": {**records.POLICY, **changes}})

    facts, floor = run(tmp_path / "a", by(metric="facts")), run(tmp_path / "b", by(metric="facts", min_quality=0.2))
    page = against.view(compare.read([facts, floor]))
    assert page["scores"] == "“facts”"
    assert any(line.startswith("policy.min_quality: none in the first run, 0.2 in") for line in page["told"])
    with pytest.raises(UserError, match="deciding score: facts in the first run, good in "):
        against.view(compare.read([facts, run(tmp_path / "c")]))


def test_runs_judged_by_a_score_of_which_less_is_better_are_refused(tmp_path: Path) -> None:
    """What grew would be called better."""

    def brier(r: RunRecord) -> RunRecord:
        found = tuple(replace(m, better="lower") if m.metric == "quality/good" else m for m in r.measurements)
        return replace(r, measurements=found)

    runs = compare.read([run(tmp_path / "a", brier), run(tmp_path / "b", brier)])
    for anyway in (False, True):
        with pytest.raises(UserError, match="“good” decides, and less of it is better; only runs judged by a score"):
            compare.comparable(runs, anyway)


def test_runs_judged_by_a_score_that_is_no_share_are_refused(tmp_path: Path) -> None:
    """Rows with such a score would be left out of the pairs."""
    made = records.grid()[1][CELL]
    rows = {CELL: [{**r, "scores": r["scores"] | {"good": 2 if n == 3 else r["scores"]["good"]}}
                   for n, r in enumerate(made)]}  # fmt: skip
    runs = compare.read([run(tmp_path / "a"), run(tmp_path / "b", rows=rows)])
    with pytest.raises(UserError, match=r"b: lora/int8 has 2\.00 on a row; what decides must be from 0 to 1"):
        compare.comparable(runs, True)


def test_ratios_of_disturbed_times_are_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def disturbed(r: RunRecord) -> RunRecord:
        if r.id != CELL:
            return r
        facts = {"latency": {"facts": {"noise": ["another process took 97% of a core"]}}}
        flag = Measurement("noisy", 1.0, "flag", "lower", 1)
        return replace(r, steps={**r.steps, **facts}, measurements=(*r.measurements, flag))

    calm, loud = run(tmp_path / "calm"), run(tmp_path / "loud", disturbed)
    for runs in ([calm, loud], [loud, calm]):
        _, out, _ = told(runs, capsys=capsys)
        assert "times of loud were taken beside other work" in out
        assert "lora/int8 (another process took 97% of a core)" in out
        assert "times of calm" not in out


def test_a_run_against_itself_shows_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b")]
    code, out, _ = told(folders, capsys=capsys)
    assert code == 0
    assert "Of 15 comparisons of “good”, 0 shown to be worse, 0 better, 15 not told apart." in out
    page = against.view(compare.read(folders))
    assert {c["delta"] for c in page["changes"]} == {"0"}
    assert {r["ratio"] for c in page["changes"] for r in c["ratios"]} == {"1.00×"}
    assert not page["states"] + page["told"] + page["left_out"]


def test_a_cell_that_got_worse_is_named_with_the_rows_that_flipped(tmp_path: Path) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b", rows=worse(CELL, 20))]
    page = against.view(compare.read(folders))
    found = {c["name"]: c for c in page["changes"]}
    assert found["lora/int8"]["verdict"] == "worse"
    assert (found["lora/int8"]["lost"], found["lora/int8"]["gained"]) == (20, 0)
    assert {c["verdict"] for n, c in found.items() if n != "lora/int8"} == {"not told apart"}
    assert len(found["lora/int8"]["flips"]) == against.SHOWN_FLIPS
    assert found["lora/int8"]["more"] == 20 - against.SHOWN_FLIPS
    back = against.view(compare.read(folders[::-1]))
    assert {c["name"]: c["verdict"] for c in back["changes"]}["lora/int8"] == "better"


def test_what_is_shown_is_corrected_for_all_comparisons(tmp_path: Path) -> None:
    """Seven rows lost and none gained is p = 0.016 alone, which 15 comparisons make 0.23."""
    page = against.view(compare.read([run(tmp_path / "a"), run(tmp_path / "b", rows=worse(CELL, 7))]))
    found = {c["name"]: c for c in page["changes"]}["lora/int8"]
    assert (found["p"], found["holm"], found["verdict"]) == ("0.016", "0.234", "not told apart")
    (cell,), rows = one_cell()
    alone = [folder(tmp_path / t, [measured(cell, t)], rows | more, [CELL])
             for t, more in (("c", {}), ("d", worse(CELL, 6)))]  # fmt: skip
    (found,) = against.view(compare.read(alone))["changes"]
    assert (found["holm"], found["verdict"], found["interval"][-8:]) == ("0.031", "worse", " to −0.5")


def test_rows_too_few_to_show_any_difference_are_called_so(tmp_path: Path) -> None:
    few, last = {i: rows[:4] for i, rows in records.grid()[1].items()}, "These rows are too few to show any difference."
    told = {}
    for name, some in (("all", few), ("one", {CELL: few[CELL]}), ("none", {})):
        folders = [run(tmp_path / name / time, rows=some) for time in "ab"]
        told[name] = against.view(compare.read(folders))["summary"].partition("15 not told apart. ")[2]
    assert told["all"] == last
    assert re.fullmatch(r"These rows would likely show differences of \d+ points or more\.", told["none"])
    rest = told["none"].removeprefix("These rows ")
    assert told["one"] == f"The rows of 1 are too few to show any difference; those of the others {rest}"
    (cell,), rows = one_cell()
    alone = [folder(tmp_path / t, [measured(cell, t)], rows, [CELL]) for t in "cd"]
    assert against.view(compare.read(alone))["summary"].startswith("Of 1 comparison of “good”, 0 shown")


def one_cell() -> tuple[list[RunRecord], dict[str, list[dict[str, Any]]]]:
    cells, rows = records.grid()
    return [r for r in cells if r.id == CELL], {CELL: rows[CELL]}


def test_rows_are_paired_by_id_in_whatever_order(tmp_path: Path) -> None:
    made = {i: rows[::-1] for i, rows in records.grid()[1].items()}
    page = against.view(compare.read([run(tmp_path / "a"), run(tmp_path / "b", rows=made)]))
    assert {(c["gained"], c["lost"], c["n"]) for c in page["changes"]} == {(0, 0, 96)}


def test_other_hardware_is_refused_and_leaves_speed_out_anyway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b", with_environment(hardware="Other CPU"))]
    code, _, err = told(folders, capsys=capsys)
    assert code == 2
    assert "hardware: Example CPU, 2 cores in the first run, Other CPU in b; --anyway compares" in err
    code, out, _ = told(folders, "--anyway", capsys=capsys)
    assert code == 0
    assert "response times, throughput, memory and cost are left out" in out
    page = against.view(compare.read(folders), anyway=True)
    assert {r["title"] for c in page["changes"] for r in c["ratios"]} == {"On disk", "Answer length"}
    assert {c["n"] for c in page["changes"]} == {96}


def _rows(change: Callable[[dict[str, Any]], Any]) -> dict[str, list[dict[str, Any]]]:
    made = records.grid()[1]
    for row in (row for rows in made.values() for row in rows):
        change(row)
    return made


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (with_rows("2"), "evaluation rows or their scoring: digest 1 in the first run, digest 2 in b"),
        (with_config("suite", primary="style"), "deciding score: good in the first run, style in b"),
        (lambda r: replace(r, suite="tool_json"), "suite: support_tone in the first run, tool_json in b"),
    ],
)
def test_what_measures_something_else_is_refused_even_anyway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Changed, field: str
) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b", change)]
    for arguments in ((), ("--anyway",)):
        code, _, err = told(folders, *arguments, capsys=capsys)
        assert code == 2
        assert field in err
        assert "cannot be compared" in err
        assert not (folders[1] / "compare.html").exists()


def test_other_knobs_of_timing_and_price_leave_their_numbers_out(tmp_path: Path) -> None:
    first = run(tmp_path / "a")
    timed = run(tmp_path / "b", with_config("measure", latency={"requests": 24, "batch_size": 4}))
    dearer = run(
        tmp_path / "c",
        lambda r: replace(r, config={**r.config, "price": {**r.config["price"], "usd_per_hour": 0.1}}),
    )
    newer = run(tmp_path / "d", with_environment(versions={"torch": "2.10.0"}))
    pages = {f.name: against.view(compare.read([first, f])) for f in (timed, dearer, newer)}
    ratios = {n: {r["title"] for c in p["changes"] for r in c["ratios"]} for n, p in pages.items()}
    assert ratios["b"] == {"On disk", "Answer length"}
    assert "Cost per 1,000, full batches" not in ratios["c"]
    assert "Whole 32-token answer p95" in ratios["c"]
    assert "Cost per 1,000, full batches" in ratios["d"]
    assert "torch: 2.9.0 in the first run, 2.10.0 in d" in pages["d"]["told"]
    assert "gptqmodel: 6.0.0 in the first run, none in d" in pages["d"]["told"]


def test_goodputs_of_different_service_levels_are_no_ratio(tmp_path: Path) -> None:
    def held(requests_per_s: float, **level: float) -> Changed:
        def change(r: RunRecord) -> RunRecord:
            rate = Measurement("goodput_requests_per_s", requests_per_s, "req/s", "higher", 24)
            asked = with_config("measure", latency={**r.config["measure"]["params"]["latency"], "level": level})(r)
            return replace(asked, measurements=(*asked.measurements, rate))

        return change

    first = run(tmp_path / "a", held(2.0, ttft_ms=500, share=0.95))
    same, looser = run(tmp_path / "b", held(4.0, ttft_ms=500, share=0.95)), run(tmp_path / "c", held(8.0, ttft_ms=500))
    share = "measure.latency.level.share"
    for runs, ratio, left_out in (
        ([first, same], {"2.00×"}, []),
        ([first, looser], set(), [f"{share}: 0.95 in the first run, none in c: goodput is left out"]),
        ([looser, first], set(), [f"{share}: none in the first run, 0.95 in a: goodput is left out"]),
    ):
        page = against.view(compare.read(runs))
        assert {r["ratio"] for c in page["changes"] for r in c["ratios"] if r["title"] == "Goodput"} == ratio
        assert page["left_out"] == left_out
        assert "Whole 32-token answer p95" in {r["title"] for c in page["changes"] for r in c["ratios"]}


@pytest.mark.parametrize(
    ("paces", "seen"), [((1.1, 1.1), 1.0), ((1.5, 1.1), 1.0), ((1.1, 1.5), 1.0), ((1.1, 1.1), 1.7)]
)
def test_ratios_of_times_count_the_pace_of_both_runs(
    tmp_path: Path, paces: tuple[float, float], seen: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their policies, and by their cells that do the same work."""
    apart = {P95: Twins(seen, ("a", "b"), seen)} if seen > 1 else {}
    monkeypatch.setattr(compare, "twins_of", lambda *_: apart)

    def paced(pace: float) -> Changed:
        return lambda r: replace(r, config={**r.config, "policy": {**records.POLICY, "pace": pace}})

    page = against.view(compare.read([run(tmp_path / n, paced(p)) for n, p in zip("ab", paces, strict=True)]))
    (found,) = (c for c in page["changes"] if c["name"] == "lora/int8")
    (ratio,) = (r for r in found["ratios"] if r["title"] == "First token p50")
    widest = max(*paces, seen)
    assert float(ratio["interval"].partition(" to ")[2]) == pytest.approx(widest, abs=0.01)
    assert f"may take {widest:.3g} times as long as another (policy.pace, " in page["about_ratios"]


def test_every_knob_that_differs_is_told_once_with_the_cells_where_not_all_have_it(tmp_path: Path) -> None:
    def change(r: RunRecord) -> RunRecord:
        r = with_config("measure", quality={"part": [0, 0.5]})(with_config("engine", batch_size=4.0)(r))
        return r if r.adaptation == "prompt_rag" else with_config("adaptation", rank=8, epochs=1)(r)

    first = run(tmp_path / "a", with_config("engine", batch_size=4))
    page = against.view(compare.read([first, run(tmp_path / "b", change)]))
    some = "(lora/fp16, lora/int8, lora/gptq and 7 more)"
    assert page["told"] == [
        "measure.quality.part: none in the first run, [0, 0.5] in b",
        f"adaptation.rank: 16 in the first run, 8 in b {some}",
        f"adaptation.epochs: none in the first run, 1 in b {some}",
    ]  # fmt: skip


def test_a_knob_without_a_value_is_no_difference_from_none(tmp_path: Path) -> None:
    """Records of earlier versions have no such knob."""
    both = [run(tmp_path / "a"), run(tmp_path / "b", with_config("suite", output_file=None))]
    assert against.view(compare.read(both))["told"] == []


def test_training_on_other_rows_is_told(tmp_path: Path) -> None:
    def of(data: str) -> Changed:
        seen = {"data": data, "instructions": data}
        return lambda r: replace(r, steps={**r.steps, "adapt": {**r.steps["adapt"], "preimage": seen}})

    page = against.view(compare.read([run(tmp_path / "a", of("1")), run(tmp_path / "b", of("2"))]))
    assert page["told"] == [
        f"{what}: digest 1 in the first run, digest 2 in b" for what in ("training rows and articles", "instructions")
    ]


@pytest.mark.parametrize("kind", ["quality", "latency"])
def test_one_and_the_same_measurement_is_told_as_such(tmp_path: Path, kind: str) -> None:
    """Not two that were taken of the same, whose keys are equal too."""

    def taken_at(unix: int | None) -> Changed:
        step = {"key": "one", "created_unix": unix, "seconds": 2.5}
        return lambda r: replace(r, steps={**r.steps, kind: {**r.steps[kind], **step}})

    for times in ((1, 2), (None, None)):
        both = [run(tmp_path / f"{n}{unix}", taken_at(unix)) for n, unix in zip("ab", times, strict=True)]
        assert compare.SAME not in str(against.view(compare.read(both)))
    page = against.view(compare.read([run(tmp_path / "a", taken_at(1)), run(tmp_path / "b", taken_at(1))]))
    taken = "In 15 cells quality is the same measurement in both runs, taken from the store."
    assert (page["summary"] == taken) is (kind == "quality")
    partly = [run(tmp_path / n, lambda r: r if r.adaptation == "lora" else taken_at(1)(r)) for n in "cd"]
    for of, of_quality in ((page, ""), (against.view(compare.read(partly)), "5")):
        assert leads(of) == ["15 cells", "itself", of_quality if kind == "quality" else "15"]
    for c in page["changes"]:
        assert (c["verdict"] == compare.SAME) is (kind == "quality")
        once = {r["title"] for r in c["ratios"] if r["interval"] == compare.SAME}
        assert ("Whole 32-token answer p95" in once, "Cost per 1,000, full batches" in once) == (
            kind == "latency", False
        )  # fmt: skip


def test_one_cell_is_compared_with_one_whatever_they_are_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells, made = records.grid()
    by_name = {"/".join(r.id.split("/")[1:3]): measured(r, "own") for r in cells}
    alone = [by_name["lora/fp16"], by_name["lora/int8"]]
    folders = [folder(tmp_path / n, [r], made, [r.id]) for n, r in zip("ab", alone, strict=True)]
    page = against.view(compare.read(folders))
    assert [c["name"] for c in page["changes"]] == ["lora/int8 against lora/fp16"]
    assert leads(page) == ["2 cells", "the one", ""]
    alike = against.view(compare.read([folders[0], folder(tmp_path / "again", alone[:1], made, [alone[0].id])]))
    assert leads(alike) == ["1 cell", "itself", ""]
    assert ("quantization: fp16 in the first run, int8 in b" in page["told"], page["states"]) == (True, [])
    assert told(folders, capsys=capsys)[0] == 0
    assert told([run(tmp_path / "grid"), folders[0]], capsys=capsys)[0] == 0
    assert told([folders[0], folder(tmp_path / "two", cells[:2], made, records.ids()[:2])], capsys=capsys)[0] == 2


def leads(page: dict[str, Any]) -> list[str]:
    """How many cells a page says there are, what each is said to be compared with, and for how many comparisons p is
    said to be corrected."""
    text = escaping.page("compare.html.j2", page)
    found = re.search(r">(\d+ cells?) ·.*Each cell against (.*?) in \w+, row by row(.*?)</p>", text, re.DOTALL)
    assert found
    return [*found.groups()[:2], "".join(re.findall(r"for all (\d+) comparisons", found[3]))]


def test_a_terminal_is_told_in_plain_text_what_matters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run(tmp_path / "a_1"), run(tmp_path / "b_2", with_environment(dtype="x_y"), worse(CELL, 20))]
    lines = told(folders, capsys=capsys)[1].splitlines()
    assert lines[0].startswith("Of 15 comparisons of “good”, 1 shown to be worse")
    assert lines[1:4] == [
        "a_1: recommends lora/fp16", "b_2: recommends lora/dynamic",
        "differs: dtype: float32 in the first run, x_y in b_2",
    ]  # fmt: skip
    assert lines[4].startswith("lora/int8 in b_2: worse, −21 points, 95% interval ")
    assert lines[5:] == [str(folders[1] / "compare.html")]
    assert "| lora/int8 | b\\_2 |" in (folders[1] / "compare.md").read_text(encoding="utf-8")


def test_a_slower_run_has_its_ratio_with_an_interval(tmp_path: Path) -> None:
    def slower(r: RunRecord) -> RunRecord:
        return replace(
            r,
            measurements=tuple(
                replace(m, value=2 * m.value, samples=tuple(2 * s for s in m.samples)) if m.unit == "ms" else m
                for m in r.measurements
            ),
        )

    page = against.view(compare.read([run(tmp_path / "a"), run(tmp_path / "b", slower)]))
    ratio = next(r for r in page["changes"][0]["ratios"] if r["title"] == "Whole 32-token answer p50")
    assert ratio["ratio"] == "2.00×"
    low, high = (float(v) for v in ratio["interval"].split(" to "))
    assert (low, high) == pytest.approx((2 / 1.1, 2 * 1.1), abs=0.01), "the same prompts, so the pace alone"
    assert "a whole run may take 1.1 times as long" in against.markdown(page)

    def drifted(r: RunRecord) -> RunRecord:
        drift = Measurement("round_drift", 1.5, "×", "lower", 2)
        return replace(slower(r), measurements=(*slower(r).measurements, drift))

    wide = against.view(compare.read([run(tmp_path / "c"), run(tmp_path / "d", drifted)]))
    ratio = next(r for r in wide["changes"][0]["ratios"] if r["title"] == "Whole 32-token answer p50")
    assert float(ratio["interval"].split(" to ")[1]) >= 3


@pytest.mark.parametrize(
    ("requests", "n", "whole", "parts"),
    [
        (3, 3, 3, [[0], [1], [2]]),
        (3, 3, 6, [[0, 3], [1, 4], [2, 5]]),
        (3, 6, 6, [[0, 3], [1, 4], [2, 5]]),  # as earlier versions counted rounds
        (3, 2, 6, [[0, 2, 3, 5], [1, 4]]),
    ],
)
def test_samples_of_a_time_are_told_apart_by_prompt(requests: int, n: int, whole: int, parts: list[list[int]]) -> None:
    def timed(name: str, count: int) -> Measurement:
        return Measurement(f"{name}/p50", 1.0, "ms", "lower", n, None, tuple(map(float, range(count))))

    r = with_config("measure", latency={"requests": requests})(records.record("lora", "fp16"))
    r = replace(r, measurements=(timed("e2e_ms", whole), timed("itl_ms", 2 * whole)))
    assert compare._by_prompt(r, "e2e_ms") == parts
    assert compare._by_prompt(r, "itl_ms") == [[t for n in part for t in (2 * n, 2 * n + 1)] for part in parts]
    assert compare._by_prompt(r, "ttft_ms") == []


def test_runs_without_a_common_cell_and_one_run_twice_are_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path / "a")
    assert "given twice" in told([first, tmp_path / "." / "a"], capsys=capsys)[2]
    other = run(tmp_path / "b", lambda r: replace(r, id="other/" + r.id))
    code, _, err = told([first, other], capsys=capsys)
    assert (code, "no cell of" in err) == (2, True)
    code, _, err = told([first, tmp_path / "nothing"], capsys=capsys)
    assert (code, "not a run folder" in err) == (2, True)


def test_records_of_another_schema_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b", lambda r: replace(r, schema=7))]
    code, _, err = told(folders, "--anyway", capsys=capsys)
    assert code == 2
    assert "record schema 7, this version reads 1" in err


def test_cells_that_failed_or_are_absent_are_told(tmp_path: Path) -> None:
    def fails(r: RunRecord) -> RunRecord:
        return records.ended(r.adaptation, r.quantization, Status.FAILED, "out of memory") if r.id == CELL else r

    cells, made = records.grid()
    less = folder(tmp_path / "c", [r for r in cells if r.quantization != "awq"], made, [])
    page = against.view(compare.read([run(tmp_path / "a"), run(tmp_path / "b", fails), less]))
    states = {s["name"]: s["states"] for s in page["states"]}
    assert states["lora/int8"] == ["ok", "failed", "ok"]
    assert states["lora/awq"] == ["ok", "ok", "absent"]
    assert len(states) == 4


def test_a_run_that_has_not_ended_recommends_nothing(tmp_path: Path) -> None:
    cells, made = records.grid()
    partial = folder(tmp_path / "b", cells[:4], made, records.ids())
    page = against.view(compare.read([run(tmp_path / "a"), partial]))
    assert [r["told"] for r in page["runs"]] == ["recommends lora/fp16", "not all cells have ended."]
    assert {s["name"]: s["states"] for s in page["states"]}["lora/fp16"] == ["ok", "pending"]


def test_the_scores_of_several_suites_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells, made = records.grid()
    other = [with_config("suite", primary="style")(replace(r, suite="o", id=r.id.replace("support_tone", "o")))
             for r in cells]  # fmt: skip
    rows = made | {r.id: made[r.id.replace("/o", "/support_tone")] for r in other}
    every = [r.id for r in cells + other]
    folders = [folder(tmp_path / n, [measured(r, n) for r in cells + other], rows, every) for n in "ab"]
    code, out, _ = told(folders, capsys=capsys)
    assert (code, out.count("Of 30 comparisons of “good” and “style”, 0 shown")) == (0, 1)
    assert "<h2>“good” and “style” on the same rows</h2>" in (folders[1] / "compare.html").read_text(encoding="utf-8")


def test_hostile_text_is_shown_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows(lambda row: row.update(output=HOSTILE, message=HOSTILE, id=row["id"] + HOSTILE))
    broken = {i: [r | {"scores": r["scores"] | {"good": 0}, "output": HOSTILE * 2} for r in made]
              for i, made in rows.items()}  # fmt: skip
    nasty = with_environment(dtype=HOSTILE, versions={HOSTILE: HOSTILE})
    folders = [run(tmp_path / "a", rows=rows), run(tmp_path / "<script>alert(1)<", nasty, broken)]
    code, out, _ = told(folders, capsys=capsys)
    assert code == 0
    text = (folders[1] / "compare.html").read_text(encoding="utf-8")
    seen = Page(text)
    assert (seen.open, seen.wrong) == ([], [])
    assert not {"script", "img"} & seen.tags
    assert not {a for a in seen.attributes if a.startswith("on")} | ({"src"} & seen.attributes)
    assert "default-src 'none'" in text
    for mark in "\u202e\u202c\x00":
        assert mark not in text
        assert mark not in out
    assert "⟨U+202E⟩" in text
    assert re.search(r"(?<!\\)<(script|img)", (folders[1] / "compare.md").read_text(encoding="utf-8")) is None


def test_the_page_stands_in_the_last_run_or_where_it_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b")]
    told(folders, capsys=capsys)
    assert (folders[1] / "compare.html").is_file()
    told(folders, "--to", str(tmp_path / "own/page.html"), capsys=capsys)
    assert (tmp_path / "own/page.html").is_file()
    assert ledger.read_records(folders[1])
    assert told(folders, "--to", str(tmp_path / "own/page.html"), capsys=capsys)[0] == 0, "its own is drawn again"


@pytest.mark.parametrize("to", ["cmp.md", "notes", "own", "folder.html", "notes.html"])
def test_a_page_takes_the_place_of_nothing_else(tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b")]
    (tmp_path / "own").mkdir()
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "notes.md").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = told(folders, "--to", str(tmp_path / to), capsys=capsys)
    assert code == 2
    assert ("notes.md: would be overwritten" if to == "notes.html" else "give a file whose name ends in .html") in err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "notes.md").read_text() == "mine"
