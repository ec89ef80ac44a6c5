"""The whole grid through the command line, on a tiny random model: every method really runs, here too."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import ledger
from harness.environment import detect
from harness.models.dummy import DummyModel
from harness.models.gguf import PackagedGguf
from harness.models.hub import HubModel
from harness.reproduce import of_rows
from harness.types import RunRecord, Status
from harness.workers import side_by_side
from tests import disks
from tests.cells import cell
from tests.faults import campaign
from tests.grids import ROOT, SECRET, TINY, builds, harness, interpreter, linked, python, run_folder

ADAPTATIONS = ("prompt_rag", "lora", "full_ft")
QUANTIZATIONS = ("fp16", "int8", "gptq", "awq", "dynamic")
METRICS = (
    "quality/good", "ttft_ms/p95", "itl_ms/p50", "e2e_ms/p95", "throughput_tokens_per_s", "memory_bytes/peak_rss",
    "disk_bytes", "build_seconds", "cost_usd_per_1000", "fidelity/token_agreement", "fidelity/perplexity_ratio",
)  # fmt: skip


@pytest.fixture(scope="module")
def grid(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder where the 3 × 5 grid has run, four of its cells earlier, and its run folder."""
    cwd = linked(pair[0], tmp_path_factory.mktemp("grid") / "cwd")
    done = harness(cwd, "+sweep=support_tone", *TINY, "runner.workers=2")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd, run_folder(done)


@pytest.fixture(scope="module")
def records(grid: tuple[Path, Path]) -> dict[tuple[str, str], RunRecord]:
    return {(r.adaptation, r.quantization): r for r in ledger.read_records(grid[1])}


def test_every_cell_is_ok_and_in_the_grids_order(grid: tuple[Path, Path]) -> None:
    kept = ledger.read_records(grid[1])
    assert [(r.adaptation, r.quantization) for r in kept] == [(a, q) for a in ADAPTATIONS for q in QUANTIZATIONS]
    assert {r.status for r in kept} == {Status.OK}


def test_shared_builds_happen_once(grid: tuple[Path, Path]) -> None:
    kinds = [b.split("/")[0] for b in builds(grid[0])]
    assert {k: kinds.count(k) for k in set(kinds)} == {
        "base": 1, "adapt": 3, "quantize": 15, "quality": 15, "latency": 15,
    }  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
def test_every_cell_measures(records: dict[tuple[str, str], RunRecord], metric: str) -> None:
    lacking = [r.id for r in records.values() if r.value(metric) is None]
    assert not lacking


def test_rates_and_percentiles_carry_intervals(records: dict[tuple[str, str], RunRecord]) -> None:
    for record in records.values():
        for metric in ("quality/good", "ttft_ms/p50", "e2e_ms/p95"):
            found = record.value(metric)
            assert found
            assert found.interval
            assert found.interval.low <= found.value <= found.interval.high


@pytest.mark.parametrize(
    ("quantization", "kind"),
    [("int8", "Linear8bitLt"), ("gptq", "TorchAten"), ("awq", "Awq"), ("dynamic", "Linear[Int8Tensor]")],
)
def test_quantization_took(records: dict[tuple[str, str], RunRecord], quantization: str, kind: str) -> None:
    for adaptation in ADAPTATIONS:
        record = records[adaptation, quantization]
        ran = record.steps["quality"]["facts"]["linear_classes"]
        assert sum(n for name, n in ran.items() if kind in name) == 14, ran  # 2 layers of 7 linears
        plain = records[adaptation, "fp16"].steps["quality"]["facts"]
        assert record.steps["quality"]["facts"]["weights_bytes"] < plain["weights_bytes"]


def test_unquantized_cells_are_their_parents(records: dict[tuple[str, str], RunRecord]) -> None:
    for adaptation in ADAPTATIONS:
        found = records[adaptation, "fp16"].value("fidelity/perplexity_ratio")
        assert found
        assert found.value == pytest.approx(1, abs=0.01)


def test_training_is_recorded(grid: tuple[Path, Path], records: dict[tuple[str, str], RunRecord]) -> None:
    for adaptation in ("lora", "full_ft"):
        facts = records[adaptation, "fp16"].steps["adapt"]["facts"]
        losses = [p["loss"] for p in facts["loss_curve"] if "loss" in p]
        assert losses
        assert any("eval_loss" in p for p in facts["loss_curve"])
        assert facts["validation_rows"] > 0
    lora, full = (records[a, "fp16"].steps["adapt"]["facts"]["trained_parameters"] for a in ("lora", "full_ft"))
    assert 0 < lora < full
    key = records["lora", "gptq"].steps["quantize"]["key"]
    assert (grid[0] / ".harness/store/quantize" / key / "adapter/adapter_model.safetensors").is_file()


def test_rows_stand_beside_the_records(grid: tuple[Path, Path], records: dict[tuple[str, str], RunRecord]) -> None:
    reference = ledger.read_rows(grid[1], records["prompt_rag", "fp16"])
    assert len(reference) == 6
    for record in records.values():
        rows = ledger.read_rows(grid[1], record)
        assert [r["id"] for r in rows] == [r["id"] for r in reference]
        assert all(set(r["scores"]) >= {"good", "style", "facts"} for r in rows)


def test_the_table_holds_all(grid: tuple[Path, Path]) -> None:
    table, tidy = pd.read_csv(grid[1] / "table.csv"), pd.read_parquet(grid[1] / "table.parquet")
    assert len(table) == len(tidy)
    assert tidy["quantization"].nunique() == 5
    assert (grid[1] / "config.yaml").is_file()
    assert "dummy_tiny" in (grid[1] / "report.html").read_text(encoding="utf-8")


def test_no_secret_of_the_environment_is_written_down(grid: tuple[Path, Path]) -> None:
    """In no record, row, report, manifest or log."""
    written = [p for p in grid[0].rglob("*") if p.is_file()]
    assert {"manifest.json", "config.yaml", "report.html"} <= {p.name for p in written}
    assert any(p.suffix == ".log" for p in written)
    assert not [p for p in written if SECRET.encode() in p.read_bytes()]


def test_again_does_nothing_again(grid: tuple[Path, Path]) -> None:
    before = builds(grid[0])
    done = harness(grid[0], "+sweep=support_tone", *TINY)
    assert done.returncode == 0
    assert "49 steps (49 already done)" in done.stdout
    assert builds(grid[0]) == before
    assert [r.status for r in ledger.read_records(run_folder(done))] == [Status.OK] * 15


def test_times_are_taken_anew_where_that_is_asked(grid: tuple[Path, Path]) -> None:
    """And nothing else is, of no other cell."""
    before = {b: (grid[0] / ".harness/store" / b / "manifest.json").stat().st_ino for b in builds(grid[0])}
    one = ("adaptation=prompt_rag", "quantization=fp16", "runner.time_again=true")
    done = harness(grid[0], "+sweep=support_tone", *TINY, *one)
    assert "5 steps (4 already done)" in done.stdout, done.stdout + done.stderr
    after = {b: (grid[0] / ".harness/store" / b / "manifest.json").stat().st_ino for b in builds(grid[0])}
    assert before.keys() == after.keys()
    assert [b.split("/")[0] for b in before if before[b] != after[b]] == ["latency"]


def test_a_changed_knob_redoes_what_depends_on_it(grid: tuple[Path, Path]) -> None:
    """By interpreters that start as a user's do."""
    before = builds(grid[0])
    narrowed = ("adaptation=prompt_rag", "quantization=int8", "quantization.threshold=0")
    done = interpreter(grid[0], "-m", "harness", "+sweep=support_tone", *TINY, *narrowed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(b.split("/")[0] for b in builds(grid[0]) - before) == ["latency", "quality", "quantize"]


def test_what_goes_wrong_is_a_record_and_the_rest_goes_on(grid: tuple[Path, Path]) -> None:
    broken = ("dies", "raises", "garbage", "cannot")
    done = harness(
        grid[0], f"--config-dir={ROOT / 'tests/conf'}", *TINY, "adaptation=prompt_rag",
        f"quantization={','.join(broken)},fp16",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    run = run_folder(done)
    found = {r.quantization: (str(r.status), r.reason) for r in ledger.read_records(run)}
    assert list(found) == [*broken, "fp16"]
    told = {
        "dies": ("failed", "quantize: killed (SIGKILL): "),
        "raises": ("failed", "quantize: ZeroDivisionError: a bug in a quantizer"),
        "garbage": ("failed", "quality: broken against its parent"),
        "cannot": ("unsupported", "needs a device of the future"), "fp16": ("ok", ""),
    }  # fmt: skip
    for name, (status, reason) in found.items():
        assert status == told[name][0]
        assert reason.startswith(told[name][1])
    assert not list((grid[0] / ".harness/store/tmp").iterdir()), "half-built folders were left"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "killed (SIGKILL)" in page


def test_a_hung_step_is_ended_with_its_stack_in_its_log(grid: tuple[Path, Path]) -> None:
    done = harness(
        grid[0], f"--config-dir={ROOT / 'tests/conf'}", *TINY, "adaptation=prompt_rag", "quantization=hangs",
        "runner.step_limit_minutes=0.02",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    (record,) = ledger.read_records(run_folder(done))
    assert record.reason.startswith("quantize: hung: over runner.step_limit_minutes, at File ")
    log = Path(record.reason.rpartition("its stack: ")[2].rstrip(")"))
    assert "faulty.py" in log.read_text()
    assert not list((grid[0] / ".harness/store/tmp").iterdir()), "half-built folders were left"


def test_a_report_that_cannot_be_drawn_between_cells_ends_no_grid(grid: tuple[Path, Path]) -> None:
    code = (
        "import sys, harness.grid, harness.__main__\n"
        "real, tries, fail = harness.grid.report.write, [], int(sys.argv[1])\n"
        "def write(run):\n"
        "    tries.append(run)\n"
        "    if len(tries) <= fail: raise ValueError('no [box]')\n"
        "    return real(run)\n"
        "harness.grid.report.write = write\n"
        "sys.exit(harness.__main__.main(sys.argv[2:]))"
    )
    asked = ("+sweep=support_tone", *TINY, "adaptation=prompt_rag", "quantization=fp16,int8", "profile.batch_tokens=5")

    def run(drawings_that_fail: int) -> subprocess.CompletedProcess[str]:
        return python(grid[0], "-c", code, str(drawings_that_fail), *asked)

    done = run(1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the report cannot be drawn (ValueError: no [box]); going on" in done.stdout
    assert [r.status for r in ledger.read_records(run_folder(done))] == [Status.OK] * 2
    done = run(2)
    assert done.returncode == 70, "the last drawing raises"
    assert "ValueError: no [box]" in done.stderr


def test_killed_at_random_moments_a_grid_loses_nothing(
    grid: tuple[Path, Path], records: dict[tuple[str, str], RunRecord], tmp_path: Path
) -> None:
    """The short form of `python -m tests.faults`."""
    found, told = campaign(tmp_path, 2, 45, *TINY)
    assert any("after:" in line for line in told), "nothing was killed"
    assert found == {r.id: ledger.read_rows(grid[1], r) for r in [records["prompt_rag", "fp16"]]}


def test_a_grid_whose_disk_fills_ends_well_on_a_larger_one(
    grid: tuple[Path, Path], records: dict[tuple[str, str], RunRecord], tmp_path: Path
) -> None:
    """The short form of `python -m tests.disks`: it fills while the quantized model is written."""
    try:
        with disks.small_disk(tmp_path) as disk:
            found, said = disks.campaign(disk, 25_000_000, *TINY)
    except PermissionError as error:
        pytest.skip(str(error))
    assert "quantize: disk full: " in said
    assert "free space and run again" in said
    assert found == {r.id: ledger.read_rows(grid[1], r) for r in [records["prompt_rag", "fp16"]]}


def test_a_record_is_reproduced(
    grid: tuple[Path, Path], records: dict[tuple[str, str], RunRecord], tmp_path: Path
) -> None:
    """In a store of its own; and a row that scores otherwise is seen."""
    run, one = tmp_path / "run", records["prompt_rag", "int8"]
    path = run / "records" / f"{ledger.slug(one.id)}.json"
    rows = ledger.read_rows(grid[1], one)
    other = [{**rows[0], "scores": {**rows[0]["scores"], "style": 1}}, *rows[1:-1]]
    assert of_rows(rows, other) == [(rows[0]["id"], "style", 0, 1), (rows[-1]["id"], "row", "there", "none")]
    ledger.write_record(run, one)
    ledger.write_rows(run, one, rows)
    done = python(tmp_path, "-m", "harness.reproduce", str(path), "--out", str(tmp_path / "again"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "are those of the record" in done.stdout
    assert "6 rows: 6 with the same prompt and scores, 6 answered in the same words; reproduced" in done.stdout


def test_cells_are_timed_in_rounds(grid: tuple[Path, Path], records: dict[tuple[str, str], RunRecord]) -> None:
    """A second round is added to the first, which is kept; memory and load are taken once."""
    before = builds(grid[0])
    narrowed = ("adaptation=prompt_rag", "quantization=fp16,int8", "measure.latency.rounds=2")
    done = harness(grid[0], "+sweep=support_tone", *TINY, *narrowed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(b.split("/")[0] for b in builds(grid[0]) - before) == ["latency", "latency"]
    for record in ledger.read_records(run_folder(done)):
        once = records[record.adaptation, record.quantization]
        assert record.value("e2e_ms/p50").n == once.value("e2e_ms/p50").n  # type: ignore[union-attr]
        assert len(record.value("e2e_ms/p50").samples) == 4  # type: ignore[union-attr]
        assert record.value("round_drift").value >= 1.0  # type: ignore[union-attr]
        assert record.value("kv_bytes_per_token") == once.value("kv_bytes_per_token")
        assert "latency 2" in record.steps


def test_a_lora_is_timed_beside_its_base(grid: tuple[Path, Path]) -> None:
    before = builds(grid[0])
    narrowed = ("adaptation=lora", "quantization=fp16,int8", "measure.latency.adapters=3")
    done = harness(grid[0], "+sweep=support_tone", *TINY, *narrowed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [b.split("/")[0] for b in builds(grid[0]) - before] == ["latency"], "weights of 16 bits alone"
    record = next(r for r in ledger.read_records(run_folder(done)) if r.quantization == "fp16")
    assert record.value("adapter/count").value == 3  # type: ignore[union-attr]
    assert "unpacked" in record.steps["latency"]["facts"]["adapters"]
    file = grid[0] / ".harness/store/quantize" / record.steps["quantize"]["key"] / "adapter/adapter_model.safetensors"
    held = record.value("adapter/bytes").value  # type: ignore[union-attr]
    assert 0.4 * file.stat().st_size < held < 1.1 * file.stat().st_size
    for name in ("load_ms", "swap_ms", "step_ms/beside", "step_ms/merged", "batch_step_ms/one", "batch_step_ms/each"):
        assert record.value(f"adapter/{name}").value > 0  # type: ignore[union-attr]


def test_fresh_interpreters_take_one_step_after_another(grid: tuple[Path, Path]) -> None:
    """As on a GPU, where none can be forked; by the engine that is its own there. After one that dies comes another."""
    done = harness(
        grid[0], f"--config-dir={ROOT / 'tests/conf'}", *TINY, "adaptation=prompt_rag", "quantization=dies,int8",
        "runner.workers=1", "engine=graph", "runner.fork_server=false",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    died, kept = ledger.read_records(run_folder(done))
    assert died.reason.startswith("quantize: killed (SIGKILL): ")
    assert kept.value("itl_ms/p50")
    assert kept.value("quality/style")
    assert kept.steps["latency"]["facts"]["how"] == "not captured: no CUDA device"
    page = (run_folder(done) / "report.html").read_text(encoding="utf-8")
    assert "decoded: not captured: no CUDA device" in page
    assert "do not compare" not in page


def test_random_weights_have_no_quality(grid: tuple[Path, Path]) -> None:
    knobs = [k for k in TINY if "score_quality" not in k]
    done = harness(grid[0], *knobs)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = ledger.read_records(run_folder(done))
    assert not [m for m in record.measurements if m.metric.startswith("quality/")]
    assert "random weights" in record.not_measured["quality"]
    assert record.value("e2e_ms/p95")


def test_earlier_checkpoints_enter_as_they_are(
    grid: tuple[Path, Path], records: dict[tuple[str, str], RunRecord]
) -> None:
    """A GPTQ checkpoint in a folder, as auto-gptq wrote them, is a cell of its own."""
    made = grid[0] / ".harness/store/quantize" / records["prompt_rag", "gptq"].steps["quantize"]["key"]
    knobs = [k for k in TINY if not k.startswith("model")]
    done = harness(grid[0], "model=hf", f"model.id={made}", "quantization=as_is", *knobs)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = ledger.read_records(run_folder(done))
    assert any("TorchAten" in name for name in record.steps["latency"]["facts"]["linear_classes"])


def test_records_are_json_of_their_schema(grid: tuple[Path, Path]) -> None:
    for path in (grid[1] / "records").glob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["schema"] == 1


def test_a_learning_curve_and_a_control_stand_beside_the_grid(grid: tuple[Path, Path]) -> None:
    done = harness(
        grid[0], "+sweep=support_tone", "adaptation=lora", "quantization=fp16", "+curve=[0.5,1.0]",
        "profile.aa_control=true", *TINY,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = run_folder(done)
    kept = {r.id.removeprefix("dummy_tiny/lora/fp16/support_tone"): r for r in ledger.read_records(run)}
    assert set(kept) == {"", "/curve=0.5", "/again"}
    rows = {i: r.steps["adapt"]["facts"]["rows"] for i, r in kept.items()}
    assert rows["/curve=0.5"] == round(rows[""] / 2)
    assert kept["/again"].steps["adapt"]["key"] == kept[""].steps["adapt"]["key"]
    assert kept["/again"].steps["quality"]["key"] != kept[""].steps["quality"]["key"]
    assert "latency" not in kept["/again"].steps
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Would more training rows help?" in page
    assert "nothing, as it should be" in page
    done = harness(grid[0], "+sweep=support_tone", "adaptation=lora", "quantization=fp16", "+curve=[0,2]", *TINY)
    assert done.returncode == 2
    assert "give shares of the training rows above 0 and up to 1" in done.stderr


@pytest.mark.parametrize(
    ("cores", "parameters", "free_gib", "workers"),
    [
        (16, 134_515_008, 79, 8), (8, 134_515_008, 79, 4), (16, 134_515_008, 9, 2), (128, 134_515_008, 139, 8),
        (16, 8_000_000_000, 139, 1), (16, 1_100_000_000, 79, 4), (1, 10**6, 79, 1), (16, None, 79, 3),
        (16, 10**6, None, 3), (2, None, None, 1),
    ],
)  # fmt: skip
def test_workers_of_a_gpu_follow_from_cores_memory_and_model(
    monkeypatch: pytest.MonkeyPatch, cores: int, parameters: int | None, free_gib: int | None, workers: int
) -> None:
    machine = replace(detect(), device="cuda", cpu_count=cores)
    monkeypatch.setattr("harness.workers.parameters", lambda cells: parameters)
    monkeypatch.setattr("harness.workers.free_gpu_memory", lambda: None if free_gib is None else free_gib * 2**30)
    assert side_by_side([cell("adaptation=lora")], machine)[0] == workers


def test_as_many_train_as_are_known_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, cells = replace(detect(), device="cuda", cpu_count=16), [cell("model=smollm2_135m")]
    monkeypatch.setattr("harness.workers.free_gpu_memory", lambda: 79 * 2**30)
    assert [side_by_side(cells, machine, workers) for workers in (None, 1, 2, 16)] == [(8, 2), (1, 1), (2, 2), (16, 2)]
    monkeypatch.setattr("harness.workers.free_gpu_memory", lambda: 16 * 2**30)
    assert side_by_side(cells, machine, 8) == (8, 1)
    assert side_by_side(cells, replace(machine, device="cpu"), 4) == (4, 1)
    monkeypatch.setattr("harness.workers.free_gpu_memory", lambda: None)
    assert side_by_side(cells, machine, 8) == (8, 1)


@pytest.mark.parametrize(
    ("adaptations", "workers"),
    [(["prompt_rag"], 2), (["as_is"], 2), (["prompt_rag", "lora"], 1), (["full_ft"], 1)],
)
def test_more_steps_fit_a_gpu_where_none_trains(
    monkeypatch: pytest.MonkeyPatch, adaptations: list[str], workers: int
) -> None:
    monkeypatch.setattr("harness.workers.parameters", lambda cells: 8_000_000_000)
    monkeypatch.setattr("harness.workers.free_gpu_memory", lambda: 79 * 2**30)
    cells = [cell(f"adaptation={a}") for a in adaptations]
    assert side_by_side(cells, replace(detect(), device="cuda", cpu_count=16)) == (workers, 1)


def test_workers_of_a_cpu_are_its_cores_up_to_four() -> None:
    machine = replace(detect(), device="cpu")
    assert [side_by_side([], replace(machine, cpu_count=n)) for n in (1, 2, 4, 64)] == [(1, 1), (2, 1), (4, 1), (4, 1)]


def test_models_tell_their_size_or_an_upper_limit(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "layers": 2, "heads": 4, "kv_heads": 2}
    exact = 49152 * 64 + 2 * (64 * 16 * 12 + 3 * 64 * 96)
    assert DummyModel(**shape).parameters() == exact
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    assert HubModel(str(tmp_path)).parameters() == 500
    (tmp_path / "model.gguf").write_bytes(b"x" * 1000)
    assert PackagedGguf("none", "none", path=str(tmp_path / "model.gguf")).parameters() == 2000
