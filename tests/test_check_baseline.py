"""The gate's baseline file: what is kept of a run, what is refused, and when it moves on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from harness.check import subject
from harness.check.__main__ import main
from harness.check.judge import matched
from harness.statistics import place
from harness.types import RunRecord, Status
from tests import gates
from tests.gates import check, rare, together, told, verdicts


def test_a_run_folder_is_a_baseline_too(tmp_path: Path, baseline: Path) -> None:
    made = gates.rows()
    assert check(tmp_path, tmp_path / "first", gates.cell(made), made) == 0


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


def test_a_missing_cell_is_no_pass(tmp_path: Path) -> None:
    made, other = gates.rows(), gates.rows("lora", "gptq")
    both = (gates.cell(made), made), (gates.cell(other, "lora", "gptq"), other)
    first = gates.run(tmp_path / "first", *both)
    assert check(tmp_path, first, *both[0]) == 3
    assert check(tmp_path, first, *both[0], "--cell", both[0][0].id) == 0
    assert verdicts(tmp_path)["quality/style"] == "pass"


def test_a_baseline_that_is_not_whole_is_no_pass(tmp_path: Path) -> None:
    made = gates.rows()
    first = gates.run(tmp_path / "first", (gates.cell(made), made))
    (first / "cells.json").write_text(json.dumps([gates.cell(made).id, "m/lora/awq/support_tone"]))
    assert check(tmp_path, first, gates.cell(made), made) == 3
    failed = gates.run(tmp_path / "failed", (gates.cell(made, status=Status.FAILED, reason="killed"), []))
    assert check(tmp_path, failed, gates.cell(made), made) == 3


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
        assert f"{other}; by what passes it moves up with luck, so judge by a file that stays as well\n" in (
            capsys.readouterr().out
        )


def test_a_baseline_with_too_few_groups_to_pass_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [{**r, "group": f"g{i // 3}"} for i, r in enumerate(gates.rows())]
    run, base = str(gates.run(tmp_path / "run", (gates.cell(made), rare(made, 5)))), str(tmp_path / "b.json")
    assert main([run, "--save-baseline", base]) == 0
    assert not told(capsys)
    assert main([run, "--save-baseline", base, "--rules", "strict"]) == 0
    said = told(capsys)
    assert "style, wording, ended: 67 groups of rows, and it takes 119 to show of a candidate" in said
    assert "that answers in other words and scores the same that it is as good; give more rows" in said
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


@pytest.mark.parametrize("what", ["one large group", "answers that may run on"])
def test_a_baseline_worth_fewer_groups_is_told(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    made, record = gates.rows(), gates.cell(gates.rows())
    said = (
        "style, ended: 101 groups of rows of other sizes are worth 4, fewer than the 59 that the error rates take; a "
        "candidate that is worse by the margin may pass more often than in 5%\n"
    )
    if what == "one large group":
        made = [{**r, "group": "a" if i < 100 else f"b{i}"} for i, r in enumerate(made)]
    else:
        params = {"primary": "style", "max_new_tokens": 5_000}
        record = replace(record, config={**record.config, "suite": {**record.config["suite"], "params": params}})
        said = "output_tokens/mean: 200 groups of rows, and it takes 870 to show"
    run = gates.run(tmp_path / "run", (record, made))
    (tmp_path / "shared").mkdir()
    (link := tmp_path / "link.json").symlink_to(tmp_path / "shared/base.json")
    assert main([str(run), "--save-baseline", str(link)]) == 0
    assert link.is_symlink(), "what it leads to is written"
    assert said in told(capsys)
    other = [{**r, "output": f"{r['output']}!"} for r in made]
    code = 0 if what == "one large group" else 3
    assert check(tmp_path, link, record, other) == code
    shown = "or long ones that become short, are seen in 870 groups of rows or more; shown to be"
    assert (shown in capsys.readouterr().out) is bool(code)


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


@pytest.mark.parametrize(("flag", "mend"), [("--baseline", "--out"), ("--save-baseline", "file")])
def test_a_verdict_takes_the_place_of_no_baseline(
    tmp_path: Path, baseline: Path, flag: str, mend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, made = tmp_path / "out", gates.rows()
    out.mkdir()
    kept = baseline.rename(out / "check.json")
    (tmp_path / "link").symlink_to(out)
    before = kept.read_bytes()
    named = str(tmp_path / "link/check.json")
    more = ["--out", str(out), *([flag, named] if flag != "--baseline" else [])]
    first = Path(named) if flag == "--baseline" else tmp_path / "first"
    assert check(tmp_path, first, gates.cell(made), made, *more) == 2
    assert told(capsys).endswith(f"{flag} {named}: the verdict is written there; give another {mend}\n")
    assert kept.read_bytes() == before


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
