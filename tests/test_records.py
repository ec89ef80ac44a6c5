"""What a cell's record says when some of its steps did not end well."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness import grid, ledger, report
from harness.configured import Grid
from harness.decide.costs import cost_line
from harness.environment import Environment
from harness.errors import UserError
from harness.execute import MEASUREMENTS
from harness.launch import Launcher
from harness.measure.load import quantiles
from harness.plan import Plan, plan
from harness.records import NO_ENDS, ONE_BATCH, ROUNDED, assemble
from harness.store import MANIFEST, Store, sealed, write_json
from harness.types import Cell, Measurement, RunRecord, Status, StepKind, plain
from tests.cells import MACHINE, cell, data_of

PRICE = {"usd_per_hour": 1.0, "volume_requests": 1000, "utilization": 0.5}
CHOICES = {"policy": {}, "price": PRICE, "profile": "quick"}


def record(
    root: Path, one: Cell, broken: Collection[str] = (), also: Sequence[Measurement] = (),
    suite: Mapping[str, Any] = {},
) -> RunRecord:  # fmt: skip
    """The record of a cell whose steps are done but for the `broken` ones, by their names in its chain; `also` stands
    beside what its quality measured, and `suite` is what is said of its rows."""
    made, store = plan([one], data_of([one], **suite), MACHINE), Store(root)
    failed = build(store, made, one, broken, also=also)
    return assemble(one, made, store, failed, MACHINE, CHOICES)


def build(
    store: Store, made: Plan, one: Cell, broken: Collection[str] = (), where: Mapping[str, Environment] = {},
    also: Sequence[Measurement] = (),
) -> dict[str, str]:  # fmt: skip
    """Builds a cell's steps but for the `broken` ones, on other machines `where` that is said, and gives why these
    failed."""
    chain = made.chains[one.id]
    for number, (role, key) in enumerate(chain.items()):
        step = made.steps[key]
        found: list[Measurement] = []
        if step.kind is StepKind.LATENCY:
            found = quantiles("e2e_ms", [10.0 * number])
            found += [Measurement(f"batch_{what}_ms", 5.0, "ms", "lower", 1) for what in ("prefill", "step")]
        if step.kind is StepKind.QUALITY:
            found = [Measurement("quality/style", 0.5, "share", "higher", 8)]
            found += [Measurement("output_tokens/mean", 9.0, "tokens", "lower", 8), *also]

        def work(out: Path, found: list[Measurement] = found) -> dict[str, Any]:
            write_json(out / MEASUREMENTS, plain(found))
            return {"weights_disk_bytes": 7}

        if role not in broken:
            store.build(step, work, {**plain(where.get(role, MACHINE)), "threads": 2})
    return {chain[role]: f"{role.split()[0]}: crashed (SIGSEGV)" for role in broken}


def test_a_failed_later_round_leaves_what_the_others_took(tmp_path: Path) -> None:
    three = cell("measure.latency.rounds=3")
    whole, less = record(tmp_path / "whole", three), record(tmp_path / "less", three, {"latency 2"})
    assert (whole.status, less.status) == (Status.OK, Status.OK)
    assert [len(r.value("e2e_ms/p50").samples) for r in (whole, less)] == [3, 2]  # type: ignore[union-attr]
    assert less.not_measured["round 2"] == "latency: crashed (SIGSEGV); the times are those of the other rounds"
    assert "round 2" not in whole.not_measured
    assert less.reason == ""


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_was_not_measured(tmp_path: Path, value: float) -> None:
    """A record never has one, so that no decision reads it."""
    lost = Measurement("fidelity/perplexity", value, "points", "lower", 8)
    found = record(tmp_path, cell(), also=[lost])
    assert (found.status, found.value(lost.metric)) == (Status.OK, None)
    assert found.not_measured[lost.metric] == f"came out as {value}"


@pytest.mark.parametrize("broken", [{"latency"}, {"latency", "latency 2"}, {"quality"}, {"quality", "latency 2"}])
def test_what_no_other_step_takes_fails_the_cell(tmp_path: Path, broken: set[str]) -> None:
    found = record(tmp_path, cell("measure.latency.rounds=2"), broken)
    assert found.status is Status.FAILED
    assert "crashed (SIGSEGV)" in found.reason


def test_a_measured_cell_keeps_its_record_when_a_build_that_another_wants_again_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build's files were evicted, its facts stand. The record is there before that build begins."""
    measured, other = cell("adaptation=lora"), cell("adaptation=lora", "quantization=int8")
    cells, store = [measured, other], Store(tmp_path / "store")
    made = plan(cells, data_of(cells), MACHINE)
    build(store, made, measured)
    lora = made.steps[made.chains[measured.id][StepKind.ADAPT]]
    store.evict(store.folder(lora))

    def fails(self: Launcher) -> None:
        assert lora.key not in self.done
        assert [r.id for r in ledger.read_records(tmp_path)] == [measured.id]
        self.failed[lora.key] = "adapt: crashed (SIGSEGV)"
        self._fail_orphans()

    monkeypatch.setattr(Launcher, "run", fails)
    monkeypatch.setattr(report, "write", lambda run: (run / "report.html", []))
    whole = Grid(tuple(cells), CHOICES, data_of(cells), store, tmp_path, 1, False)
    assert grid._carry_out(whole, made, MACHINE, Console(file=io.StringIO())) == 1
    kept = {r.id: (r.status, r.reason) for r in ledger.read_records(tmp_path)}
    assert kept == {measured.id: (Status.OK, ""), other.id: (Status.FAILED, "adapt: crashed (SIGSEGV)")}
    failed = {lora.key: "adapt: crashed (SIGSEGV)"}
    assert assemble(measured, made, store, failed, MACHINE, CHOICES).status is Status.OK, "should it come to be late"


def test_a_grid_whose_run_folder_was_moved_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records that it wrote before are gone, and those that are left are not all there is to decide by."""
    cells, store = [cell("adaptation=lora"), cell()], Store(tmp_path / "store")
    made = plan(cells, data_of(cells), MACHINE)
    build(store, made, cells[0])

    def moved(self: Launcher) -> None:
        (tmp_path / "run").rename(tmp_path / "moved")
        build(store, made, cells[1])
        self.done |= {*made.steps}

    monkeypatch.setattr(Launcher, "run", moved)
    whole = Grid(tuple(cells), CHOICES, data_of(cells), store, tmp_path / "run", 1, False)
    with pytest.raises(UserError, match="/run: records of 1 cell are gone, so it was moved or cleaned while the grid"):
        grid._carry_out(whole, made, MACHINE, Console(file=io.StringIO()))
    assert [r.id for r in ledger.read_records(tmp_path / "run")] == [cells[1].id]


@pytest.mark.parametrize("taken", [True, False])
def test_times_that_are_wanted_anew_are_not_those_that_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """Neither where the new timing fails, nor where the old one's clock was ahead."""
    one, store = cell(), Store(tmp_path / "store")
    made = plan([one], data_of([one]), MACHINE)
    build(store, made, one)
    timing = made.steps[made.chains[one.id][StepKind.LATENCY]]
    write_json(store.folder(timing) / MANIFEST, sealed({**(store.manifest(timing) or {}), "created_unix": 2**40}))

    def run(self: Launcher) -> None:
        assert {*made.steps} - self.done == {timing.key}
        if taken:
            build(self.store, made, one)
        worker: Any = SimpleNamespace(step=timing, pipe=None, started=0.0, oom_kills=None, reason="hung")
        self.running[worker.pipe] = worker
        self.watcher.started(timing)
        self._ended(worker)

    monkeypatch.setattr(Launcher, "run", run)
    monkeypatch.setattr(report, "write", lambda run: (run / "report.html", []))
    monkeypatch.setattr(grid, "detect", lambda: MACHINE)
    whole = Grid((one,), CHOICES, data_of([one]), store, tmp_path, 1, False, time_again=True)
    assert grid.carry_out(whole, Console(file=io.StringIO())) == (0 if taken else 1)
    (found,) = ledger.read_records(tmp_path)
    assert (found.status, found.reason) == ((Status.OK, "") if taken else (Status.FAILED, "latency: hung"))
    assert (found.steps["latency"]["created_unix"] < 2**40) if taken else "latency" not in found.steps


@pytest.mark.parametrize(
    ("clients", "requests", "told"), [("[]", 0, False), ("[]", 20, True), ("[1]", 0, True), ("[1]", 20, True)]
)
@pytest.mark.parametrize("served", ["closed_1/ttft_ms/p95", "open/places", ""])
def test_a_load_that_was_asked_for_and_not_taken_is_told(
    tmp_path: Path, clients: str, requests: int, told: bool, served: str
) -> None:
    asked = cell(f"measure.latency.clients={clients}", f"measure.latency.open_requests={requests}")
    taken = [Measurement(served, 1.0, "rows", "higher", 1)] if served else []
    found = record(tmp_path, asked, also=taken).not_measured
    assert found.get("load") == (ONE_BATCH if told and not served else None)


def test_answers_that_stop_texts_end_are_not_those_that_were_timed(tmp_path: Path) -> None:
    cut = Measurement("cut_share", 0.5, "share", "lower", 8)
    ends = Measurement("e2e_natural_ms/p50", 70.0, "ms", "lower", 4)
    one = cell("adaptation=lora", "profile.natural_requests=1")
    for also, told in (([cut], False), ([ends], False), ([cut, ends], True)):
        found = record(tmp_path / str(len(also)) / also[0].metric, one, also=also)
        assert ("own ends" in found.not_measured) is told
    aware = record(tmp_path / "aware", one, also=[cut, ends], suite={"ends": ("\n\n",)})
    assert "own ends" not in aware.not_measured


@pytest.mark.parametrize(("tokens", "output", "metric", "told"), [
    (0.0, "A", "goodput_requests_per_s", NO_ENDS), (0.0, "A", "e2e_natural_ms/p50", NO_ENDS),
    (0.0, "A", "itl_ms/p50", None), (0.0, "", "goodput_requests_per_s", None),
    (0.5, "A", "goodput_requests_per_s", None),
])  # fmt: skip
def test_choices_are_not_priced_by_text_that_is_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: float, output: str, metric: str, told: str | None
) -> None:
    """A choice is text that no tokens were made for; a model that says nothing is priced as what it is."""
    monkeypatch.setattr("harness.records.rows_of", lambda *_: [{"output": output}])
    also = [Measurement(metric, 7.0, "", "lower", 4), Measurement("output_tokens/mean", tokens, "tokens", "lower", 8)]
    made = record(tmp_path, cell("adaptation=lora", "profile.natural_requests=1"), also=also)
    assert made.not_measured.get("own ends") == told


@pytest.mark.parametrize("quantization", ["gptq", "awq"])
def test_weights_that_were_only_rounded_have_no_quality(tmp_path: Path, quantization: str) -> None:
    calibrated = cell(f"quantization={quantization}")
    rounded = replace(
        calibrated,
        quantization=replace(calibrated.quantization, params={**calibrated.quantization.params, "calibration_rows": 0}),
    )
    assert record(tmp_path / "calibrated", calibrated).value("quality/style")
    found = record(tmp_path / "rounded", rounded)
    assert found.status is Status.OK
    assert found.value("quality/style") is None
    assert found.not_measured["quality"] == ROUNDED
    assert found.value("e2e_ms/p50")
    random = replace(rounded, model=cell("model=dummy_tiny").model, quantization=calibrated.quantization)
    assert record(tmp_path / "random", random).not_measured["quality"].startswith("random weights")


def gone(store: Store, folder: Path) -> None:
    store.remove(folder)


def unreadable(_: Store, folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def emptied(_: Store, folder: Path) -> None:
    (folder / MEASUREMENTS).unlink()


@pytest.mark.parametrize("spoil", [gone, unreadable, emptied])
@pytest.mark.parametrize("kind", [StepKind.BASE, StepKind.QUALITY, StepKind.LATENCY])
def test_what_is_gone_from_the_store_fails_the_cell(
    tmp_path: Path, kind: StepKind, spoil: Callable[[Store, Path], None]
) -> None:
    """Somebody took it away while the grid ran. No other reason is given for what is then not measured."""
    one, store = cell(), Store(tmp_path)
    made = plan([one], data_of([one]), MACHINE)
    build(store, made, one)
    lost = made.steps[made.chains[one.id][kind]]
    spoil(store, store.folder(lost))
    found = assemble(one, made, store, {}, MACHINE, CHOICES)
    if kind is StepKind.BASE and spoil is emptied:  # as an evicted one, whose facts stand
        assert found.status is Status.OK
        return
    assert (found.status, found.reason) == (Status.FAILED, f"{kind}/{lost.key} is gone from the store; run again")
    assert "itl_ms" not in found.not_measured


def test_a_build_is_paid_by_the_cores_of_the_machine_that_built_it(tmp_path: Path) -> None:
    """Two threads of eight cores for 72 seconds are 18 of that machine, and where it used 160 of a core's, 20. The
    record and the decision say the same."""
    one, store = cell(), Store(tmp_path)
    made = plan([one], data_of([one]), MACHINE)
    build(store, made, one, where={StepKind.ADAPT: replace(MACHINE, cpu_count=8)})
    for role, key in made.chains[one.id].items():
        folder = store.folder(made.steps[key])
        seconds, used = {StepKind.ADAPT: (72.0, 160.0), StepKind.QUANTIZE: (2.0, 1.0)}.get(StepKind(role), (0.0, 0.0))
        manifest = dict(store.manifest(made.steps[key]) or {})
        assert 0 <= manifest["cpu_seconds"] < 5
        write_json(folder / MANIFEST, sealed({**manifest, "seconds": seconds, "cpu_seconds": used}))
    found = assemble(one, made, store, {}, MACHINE, CHOICES)
    cost, line = found.value("cost_usd_per_1000"), cost_line(found, "batched")
    assert cost
    assert line
    assert line.once_usd == pytest.approx((20 + 2) * PRICE["usd_per_hour"] / 3600)
    serving = 1000 * PRICE["usd_per_hour"] / 3600 / (found.value("throughput_requests_per_s").value * 0.5)  # type: ignore[union-attr]
    assert cost.value == pytest.approx(serving + line.once_usd)
    assert line.serving_usd_per_1000 == pytest.approx(serving)


@pytest.mark.parametrize(("broken", "by"), [((), "timed"), (("latency",), "scored"), (("latency", "quality"), None)])
def test_the_machine_of_a_record_is_the_one_that_measured(tmp_path: Path, broken: tuple[str, ...], by: str) -> None:
    one, store = cell(), Store(tmp_path)
    made = plan([one], data_of([one]), MACHINE)
    where = {
        role: replace(MACHINE, hardware=f"which {what}") for role, what in (("latency", "timed"), ("quality", "scored"))
    }
    failed = build(store, made, one, broken, where)
    found = assemble(one, made, store, failed, MACHINE, CHOICES)
    assert found.environment == {**plain(MACHINE), **({"hardware": f"which {by}"} if by else {})}
