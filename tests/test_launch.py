"""The order in which a grid's steps run on one machine, exactly, with a clock of our own: no step really runs."""

from __future__ import annotations

import fcntl
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.execute import machine
from harness.launch import Launcher, _Worker
from harness.plan import Plan, plan
from harness.store import Store
from harness.types import StepKind
from tests.cells import MACHINE, data_of, grid

SECONDS = {StepKind.BASE: 10, StepKind.ADAPT: 300, StepKind.QUANTIZE: 40, StepKind.QUALITY: 60, StepKind.LATENCY: 12}


@pytest.fixture
def made() -> Plan:
    cells = grid()
    return plan(cells, data_of(cells), MACHINE)


def schedule(made: Plan, root: Path, workers: int) -> list[tuple[int, int, StepKind, str]]:
    """(start, end, kind, key) of every step in the order of their starts, each taking what `SECONDS` says."""
    launcher = Launcher(made, Store(root), MACHINE, workers, False, watcher=SimpleNamespace())  # type: ignore[arg-type]
    now, ran, ends = 0, [], {}
    while len(launcher.done) < len(made.steps):
        for step in launcher._startable():
            ends[step.key] = now + SECONDS[step.kind]
            launcher.running[step.key] = SimpleNamespace(step=step)  # type: ignore[index,assignment]
            ran.append((now, ends[step.key], step.kind, step.key))
        assert launcher.running, "nothing runs and not all is done"
        now = min(ends[key] for key in launcher.running)  # type: ignore[index]
        for key in [k for k in launcher.running if ends[k] == now]:  # type: ignore[index]
            del launcher.running[key]
            launcher.done.add(key)  # type: ignore[arg-type]
    return ran


def beside(ran: list[Any], at: Any) -> list[Any]:
    """What runs at some time while a step runs."""
    return [other for other in ran if other is not at and other[0] < at[1] and at[0] < other[1]]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_one_step_trains_at_a_time_and_latencies_are_alone(made: Plan, tmp_path: Path, workers: int) -> None:
    ran = schedule(made, tmp_path, workers)
    assert len(ran) == len(made.steps)
    for step in ran:
        others = beside(ran, step)
        assert len([o for o in others if o[0] <= step[0]]) < workers
        if step[2] is StepKind.LATENCY:
            assert not others
        if step[2] is StepKind.ADAPT:
            assert StepKind.ADAPT not in {o[2] for o in others}


def test_the_first_cell_is_timed_before_others_start(made: Plan, tmp_path: Path) -> None:
    ran = schedule(made, tmp_path, 2)
    first = next(iter(made.chains.values()))
    assert [s[3] for s in ran[:4]] == [first[k] for k in SECONDS if k is not StepKind.QUALITY]
    assert {s[3] for s in ran[4:6]} > {first[StepKind.QUALITY]}


def test_both_cores_are_at_work_while_there_is_work(made: Plan, tmp_path: Path) -> None:
    """Training alone must not leave a core idle that builds and evaluations could use."""
    ran = schedule(made, tmp_path, 2)
    shared = [s for s in ran if s[2] is not StepKind.LATENCY]
    work, end = sum(s[1] - s[0] for s in shared), max(s[1] for s in shared)
    alone = sum(SECONDS[k] for k in (StepKind.BASE, StepKind.ADAPT, StepKind.QUANTIZE)) + SECONDS[StepKind.LATENCY]
    assert (end - alone) <= 1.15 * (work - alone) / 2


def test_a_latency_waits_for_other_grids_and_they_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with machine(alone=False), machine(alone=False):
        (lock,) = tmp_path.iterdir()
        with lock.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with machine(alone=True), lock.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_idle_worker_that_died_is_passed_over(made: Plan, tmp_path: Path) -> None:
    launcher = Launcher(made, Store(tmp_path), MACHINE, 2, False, watcher=SimpleNamespace())  # type: ignore[arg-type]
    (dead, gone), (alive, listening) = Pipe(), Pipe()
    gone.close()
    launcher.idle = [_Worker(None, alive), _Worker(None, dead)]  # the last one is asked first
    assert launcher._given("task").pipe is alive
    assert listening.recv() == "task"
    assert launcher.idle == []
