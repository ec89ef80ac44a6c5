"""The order in which a grid's steps run on one machine, exactly, with a clock of our own: no step really runs."""

from __future__ import annotations

import fcntl
import subprocess
import sys
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


def launcher_of(made: Plan, root: Path) -> Launcher:
    heard = SimpleNamespace(started=lambda *_: None, ended=lambda *_: None, waited=lambda: None)
    return Launcher(made, Store(root), MACHINE, 2, False, watcher=heard)  # type: ignore[arg-type]


def gone(pid: int = 0) -> Any:
    """A process that has ended."""
    return SimpleNamespace(join=lambda timeout=None: None, is_alive=lambda: False, exitcode=3, pid=pid)


def test_an_idle_worker_that_died_is_passed_over(made: Plan, tmp_path: Path) -> None:
    launcher = launcher_of(made, tmp_path)
    (dead, other), (alive, listening) = Pipe(), Pipe()
    other.close()
    launcher.idle = [_Worker(None, alive), _Worker(None, dead)]  # the last one is asked first
    assert launcher._given("task", exclusive=False).pipe is alive
    assert listening.recv() == "task"
    assert launcher.idle == []


def test_a_timing_gets_a_worker_that_did_nothing_else(
    made: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a build left in memory must not stand in a latency's; one that only timed may time again."""
    launcher = launcher_of(made, tmp_path)
    launcher.logs.mkdir(parents=True)
    built, timed, new = Pipe(), Pipe(), Pipe()
    timings = [s for s in made.steps.values() if s.exclusive]
    launcher.idle = [_Worker(gone(), timed[0]), _Worker(gone(), built[0], fresh=False)]
    launcher._start(timings[0])
    assert timed[1].recv()[0]["key"] == timings[0].key
    assert launcher.idle == []
    with pytest.raises(EOFError):
        built[1].recv()
    build = next(s for s in made.steps.values() if not s.exclusive)
    launcher.idle = [launcher.running.pop(timed[0])]
    launcher._start(build)
    launcher.idle = [launcher.running.pop(timed[0])]
    monkeypatch.setattr(launcher, "_hire", lambda: _Worker(gone(), new[0]))
    launcher._start(timings[1])
    assert new[1].recv()[0]["key"] == timings[1].key


def test_a_worker_that_dies_at_once_fails_its_step_and_the_rest_goes_on(
    made: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = launcher_of(made, tmp_path)

    def stillborn() -> _Worker:
        (log,) = launcher.logs.iterdir()
        log.write_text("of interest to nobody\nRuntimeError: no such device\n\n")
        ours, theirs = Pipe()
        theirs.close()
        return _Worker(gone(), ours)

    monkeypatch.setattr(launcher, "_hire", stillborn)
    failed = launcher.run()
    assert set(failed) == set(made.steps)
    (reason,) = set(failed.values())
    assert reason.startswith("base: ended without a word (exit code 3): RuntimeError: no such device (log: ")


def test_a_worker_that_cannot_import_says_so(made: Plan, tmp_path: Path) -> None:
    """A real process, whose imports fail before any step comes."""
    ours, theirs = Pipe()
    hide = "import sys; sys.modules['harness.execute'] = None"
    code = f"{hide}; from multiprocessing.connection import Connection; from harness.launch import work; "
    code += f"work(Connection({theirs.fileno()}), {str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL, check=True)
    kind, reason, _ = ours.recv()
    assert kind == "failed"
    assert reason.startswith("ModuleNotFoundError: import of harness.execute halted")
