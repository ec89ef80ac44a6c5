"""All runs of an outputs folder on one page: the whole ones judged, the broken ones named."""

from __future__ import annotations

import os
from dataclasses import replace
from errno import EACCES
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from harness import index, ledger, report
from harness.report.__main__ import main
from harness.report.numbers import COST, P95
from harness.types import RunRecord, Status
from tests import records
from tests.pages import HOSTILE, Page, folder


def run(path: Path, quality: float = 0.8, hardware: str = "Example CPU, 2 cores", rows: int = 96) -> Path:
    """Two cells that differ in nothing but speed, so that one of them is recommended."""
    cells, made = [], {}
    for quantization in ("fp16", "int8"):
        made[records.cell_id("lora", quantization)] = records.rows("lora", quantization, rows)
        one = records.record("lora", quantization, made[records.cell_id("lora", quantization)])
        one = records.with_value(one, "quality/good", quality)
        one = replace(one, steps={**one.steps, "quality": {"preimage": {"rows": str(rows)}}})
        cells.append(replace(one, environment={**one.environment, "hardware": hardware}))
    return folder(path, cells, made, [r.id for r in cells])


def page(root: Path) -> str:
    return index.write(root).read_text(encoding="utf-8")


def test_every_run_is_listed_with_what_it_recommends(tmp_path: Path) -> None:
    for sweep, time in (("support_tone", "2026-01-02"), ("support_tone", "2026-01-03"), ("tool_json", "2026-01-01")):
        run(tmp_path / sweep / time)
    for aside in ("check/2026-01-04/look-1/cell-1", "reproduced/2026-01-04"):
        for above in (tmp_path, tmp_path / "mine"):
            run(above / aside)
            if aside.startswith("check"):
                ledger.write_text(above / aside / "config.yaml", "sweep_name: single")
    for kept in ("check", "mine/reproduced"):
        ledger.write_text(run(tmp_path / kept / "2026-01-05") / "config.yaml", f"sweep_name: {Path(kept).name}")
    report.write(tmp_path / "support_tone/2026-01-03")
    found = index.view(tmp_path)
    assert [(s["name"], [r["time"] for r in s["runs"]]) for s in found["sweeps"]] == [
        ("check", ["2026-01-05"]), ("reproduced", ["2026-01-05"]),
        ("support_tone", ["2026-01-03", "2026-01-02"]), ("tool_json", ["2026-01-01"]),
    ]  # fmt: skip
    newest, oldest = found["sweeps"][2]["runs"]
    assert newest["chosen"] in report.write(tmp_path / "support_tone/2026-01-03")[1][0]
    assert newest["chosen"].startswith("lora/")
    assert newest["values"][0] == "80%"
    assert (newest["link"], oldest["link"]) == ("support_tone/2026-01-03/report.html", "")
    assert newest["counts"] == {"ok": 2, "failed": 0, "unsupported": 0}
    text = page(tmp_path)
    assert '<a href="support_tone/2026-01-03/report.html">2026-01-03</a>' in text
    assert text.count(">smollm2_135m<") == 5
    assert (Page(text).open, Page(text).wrong) == ([], [])


def test_trends_follow_the_recommended_and_the_best_cell(tmp_path: Path) -> None:
    for at, quality in enumerate((0.5, 0.6, 0.9)):
        run(tmp_path / "sweep" / f"2026-01-0{at}", quality)
    (sweep,) = index.view(tmp_path)["sweeps"]
    trend = {t["title"]: t for t in sweep["trends"]}["Quality"]
    assert [r["recommended"] for r in trend["rows"]] == ["50%", "60%", "90%"]
    ((first, second, third),) = trend["drawn"]["recommended"]
    assert first[0] < second[0] < third[0]
    assert first[1] > second[1] > third[1], "more is higher"
    assert not trend["breaks"]
    text = page(tmp_path)
    drawing = text.split("<svg")[1].split("</svg>")[0]
    kinds = {e.get("class") for e in ElementTree.fromstring(f"<svg{drawing}</svg>").iter() if e.get("class")}
    assert kinds == {"train", "grid", "eval", "dot"}
    assert all(f".curves .{kind} {{" in text for kind in (*kinds, "limit")), "what has no style is not seen"


def test_runs_of_other_suites_have_trends_of_their_own(tmp_path: Path) -> None:
    """Runs without a sweep all stand in one folder."""
    for at, quality in enumerate((0.5, 0.6, 0.9, 0.9)):
        cells, made = [records.record("lora", "fp16")], {}
        cells = [records.with_value(r, "quality/good", quality) for r in cells]
        if at > 1:
            cells = [replace(r, suite="other", id=r.id.replace("support_tone", "other")) for r in cells]
        made = {r.id: records.rows("lora", "fp16") for r in cells}
        folder(tmp_path / "single" / f"2026-01-0{at}", cells, made, [r.id for r in cells])
    (sweep,) = index.view(tmp_path)["sweeps"]
    reach = {t["title"]: t["reach"] for t in sweep["trends"]}
    assert reach["Quality, support_tone"] == "From 50% to 60%"
    assert reach["Quality, other"] == "Always 90%"


def test_the_score_shown_is_the_one_that_the_policy_decides_by(tmp_path: Path) -> None:
    for time, metric in (("1", None), ("2", "style")):
        for r in ledger.read_records(run(tmp_path / "sweep" / time, 0.5)):
            policy = records.POLICY | {"metric": metric}
            style = records.with_value(r, "quality/style", 0.9)
            ledger.write_record(tmp_path / "sweep" / time, replace(style, config={**r.config, "policy": policy}))
    (sweep,) = index.view(tmp_path)["sweeps"]
    rows = {t["title"]: t for t in sweep["trends"]}["Quality"]["rows"]
    assert [(r["best"], r["new"]) for r in rows] == [("50%", False), ("90%", True)]


def test_a_line_joins_only_runs_that_compare(tmp_path: Path) -> None:
    """Other hardware breaks speed, other rows break quality."""
    for time, hardware, rows in (("1", "A", 96), ("2", "A", 96), ("3", "B", 96), ("4", "B", 48)):
        run(tmp_path / "sweep" / time, hardware=hardware, rows=rows)
    (sweep,) = index.view(tmp_path)["sweeps"]
    new = {t["title"]: [r["new"] for r in t["rows"]] for t in sweep["trends"]}
    assert new["Quality"] == [False, False, False, True]
    assert new[f"{P95} of a 32-token answer"] == new["Peak memory"] == [False, False, True, False]
    assert {t["title"]: [len(p) for p in t["drawn"]["best"]] for t in sweep["trends"]}["Quality"] == [3, 1]


@pytest.mark.parametrize(
    ("group", "knobs", "broken"),
    [
        (
            "measure",
            {"params": {"latency": {"output_tokens": 64}}},
            [f"{P95} of a 32 to 64-token answer", "Peak memory", COST],
        ),
        ("model", {"params": {"id": "org/beta"}}, ["Quality", f"{P95} of a 32-token answer", "Peak memory", COST]),
        ("price", {"usd_per_hour": 8.5}, [COST]),
        ("policy", {"volume_requests": 1000}, [COST]),
        ("policy", {"margin": 0.1}, []),
    ],
)
def test_a_line_ends_where_runs_are_of_another_model_or_were_timed_or_priced_otherwise(
    tmp_path: Path, group: str, knobs: dict[str, Any], broken: list[str]
) -> None:
    run(tmp_path / "sweep/1")
    for r in ledger.read_records(run(tmp_path / "sweep/2")):
        config = {**r.config, group: {**r.config[group], **knobs}}
        ledger.write_record(tmp_path / "sweep/2", replace(r, config=config))
    (sweep,) = index.view(tmp_path)["sweeps"]
    assert [t["title"] for t in sweep["trends"] if t["breaks"]] == broken
    assert [r["models"] for r in sweep["runs"]] == ["org/beta" if group == "model" else "smollm2_135m", "smollm2_135m"]


def test_broken_runs_are_named_and_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "sweep/1")
    for name, text in (("2", "{"), ("3", '{"schema": 9}'), ("4", "[]")):
        (tmp_path / "sweep" / name / "records").mkdir(parents=True)
        (tmp_path / "sweep" / name / "records/x.json").write_text(text)
    cells, made = records.grid()
    strange = replace(cells[0], config={**cells[0].config, "measure": {"params": {"latency": "none"}}})
    folder(tmp_path / "sweep/5", [strange], made, [])
    for n in range(9):
        ledger.write_text(tmp_path / f"sweep/6/records/{n}.json", "{")
    (tmp_path / "sweep/7/records").mkdir(parents=True)
    stat = os.stat

    def without_rights(path: Any, **how: Any) -> Any:
        if f"{path}".startswith(f"{tmp_path}/sweep/7/"):
            raise PermissionError(EACCES, "no right", path)
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", without_rights)
    found = index.view(tmp_path)
    wrong = {r["time"]: r["wrong"] for r in found["sweeps"][0]["runs"]}
    assert not wrong["1"]
    assert "not JSON" in wrong["2"][0]
    assert "record schema 9" in wrong["3"][0]
    assert wrong["4"]
    assert "cannot be judged" in wrong["5"][0]
    assert (len(wrong["6"]), wrong["6"][-1]) == (4, "... and 6 more")
    assert "cannot be judged (PermissionError" in wrong["7"][0]
    assert found["broken"] == 6
    assert "6 of them cannot be read" in page(tmp_path)


def test_a_broken_inside_stops_no_trend(tmp_path: Path) -> None:
    for time in "123":
        run(tmp_path / "sweep" / time)
    for r in ledger.read_records(tmp_path / "sweep/2"):
        ledger.write_record(tmp_path / "sweep/2", replace(r, config={**r.config, "measure": "none"}))
    (sweep,) = index.view(tmp_path)["sweeps"]
    assert [bool(r["wrong"]) for r in sweep["runs"]] == [False, True, False]


def test_a_run_that_a_link_leads_to_counts_once(tmp_path: Path) -> None:
    real = run(tmp_path / "sweep/1")
    (tmp_path / "sweep/0_latest").symlink_to(real)
    (tmp_path / "a_sweep").symlink_to(tmp_path / "sweep")
    assert index.run_folders(tmp_path) == [real]


def test_unfinished_and_failed_runs_say_so(tmp_path: Path) -> None:
    cells, made = records.grid()
    folder(tmp_path / "s/1", cells[:3], made, records.ids())
    failed = [records.ended("lora", "awq", Status.FAILED, "why")]
    folder(tmp_path / "s/2", failed, {}, [r.id for r in failed])
    second, first = index.view(tmp_path)["sweeps"][0]["runs"]
    assert (first["pending"], first["chosen"], first["told"]) == (12, "", "Not all cells have ended.")
    assert (second["counts"]["failed"], second["chosen"]) == (1, "")
    assert "No recommendation" in second["told"]
    assert "12 pending" in page(tmp_path)


def test_a_folder_without_runs_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--index", str(tmp_path)]) == 2
    assert "no run folders in it" in capsys.readouterr().err
    assert main(["--index", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_hostile_names_are_shown_and_not_run(tmp_path: Path) -> None:
    name = '"><script>alert(1)<'

    def nasty(r: RunRecord) -> RunRecord:
        return replace(r, environment={**r.environment, "hardware": HOSTILE})

    cells, made = records.grid()
    for time in ("1", '" onmouseover="x'):
        run_folder = folder(tmp_path / name / time, [nasty(r) for r in cells], made, records.ids())
        ledger.write_text(run_folder / "report.html", "")
    (tmp_path / name / "2\u202e/records").mkdir(parents=True)
    (tmp_path / name / "2\u202e/records/x.json").write_text(HOSTILE.encode("utf-8", "replace").decode())
    text = page(tmp_path)
    seen = Page(text)
    assert (seen.open, seen.wrong) == ([], [])
    assert not {"script", "img"} & seen.tags
    assert not {a for a in seen.attributes if a.startswith("on")}
    assert "\u202e" not in text
