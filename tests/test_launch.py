"""The order in which a grid's steps run on one machine, exactly, with a clock of our own: no step really runs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from multiprocessing import Pipe
from pathlib import Path
from queue import Queue
from threading import Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from harness import preload
from harness.execute import machine, tidy
from harness.launch import GRACE_S, Launcher, _Worker, fate, told
from harness.plan import Plan, plan
from harness.store import Store
from harness.types import StepKind
from tests.cells import MACHINE, data_of, grid
from tests.grids import ROOT

SECONDS = {StepKind.BASE: 10, StepKind.ADAPT: 300, StepKind.QUANTIZE: 40, StepKind.QUALITY: 60, StepKind.LATENCY: 12}


@pytest.fixture
def made() -> Plan:
    cells = grid()
    return plan(cells, data_of(cells), MACHINE)


def schedule(made: Plan, root: Path, workers: int, trainings: int = 1) -> list[tuple[int, int, StepKind, str]]:
    """(start, end, kind, key) of every step in the order of their starts, each taking what `SECONDS` says."""
    launcher = Launcher(
        made, Store(root), MACHINE, workers, False, SimpleNamespace(), trainings=trainings,  # type: ignore[arg-type]
    )  # fmt: skip
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


def test_as_many_train_as_are_said_to_fit(made: Plan, tmp_path: Path) -> None:
    trained = [s for s in schedule(made, tmp_path, 3, trainings=2) if s[2] is StepKind.ADAPT]
    assert max(len([o for o in beside(trained, s) if o[0] <= s[0]]) for s in trained) == 1


def test_what_others_wait_for_comes_before_answers(made: Plan, tmp_path: Path) -> None:
    """Else a long build begins when there is nothing left to run beside it."""
    ran = schedule(made, tmp_path, 2)
    first = next(iter(made.chains.values())).values()
    builds = [s for s in ran if s[2] is StepKind.QUANTIZE]
    for start in (s[0] for s in ran if s[2] is StepKind.QUALITY and s[3] not in first):
        done = {s[3] for s in ran if s[1] <= start}
        assert not [s for s in builds if s[0] > start and set(made.steps[s[3]].parents) <= done]


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
        (lock,) = tmp_path.glob("*.lock")
        with lock.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with machine(alone=True), lock.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_latency_waits_for_none_that_came_after_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The system would let each of them in, and the latency wait for as long as any two overlap."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    asked: Queue[str] = Queue()
    entered: list[str] = []
    flock = fcntl.flock

    def heard(file: Any, how: int) -> None:
        asked.put(file.name)
        flock(file, how)

    def take(name: str, alone: bool) -> None:
        with machine(alone):
            entered.append(name)

    threads = [Thread(target=take, args=("latency", True)), Thread(target=take, args=("later build", False))]
    with machine(alone=False):
        monkeypatch.setattr(fcntl, "flock", heard)
        threads[0].start()
        while not asked.get(timeout=60).endswith(".lock"):
            pass
        threads[1].start()
        asked.get(timeout=60)
        assert entered == []
    for thread in threads:
        thread.join()
    assert entered == ["latency", "later build"]


def launcher_of(made: Plan, root: Path) -> Launcher:
    heard = SimpleNamespace(started=lambda *_: None, ended=lambda *_: None)
    return Launcher(made, Store(root), MACHINE, 2, False, watcher=heard)  # type: ignore[arg-type]


def gone(pid: int = 0) -> Any:
    """A process that has ended."""
    return SimpleNamespace(
        join=lambda timeout=None: None, is_alive=lambda: False, terminate=lambda: None, exitcode=3, pid=pid
    )


def test_an_idle_worker_that_died_is_passed_over(made: Plan, tmp_path: Path) -> None:
    launcher = launcher_of(made, tmp_path)
    (dead, other), (alive, listening) = Pipe(), Pipe()
    other.close()
    launcher.idle = [_Worker(None, alive), _Worker(None, dead, fresh=False)]  # which is asked first
    assert launcher._given("task", exclusive=False).pipe is alive
    assert listening.recv() == "task"
    assert launcher.idle == []


def test_a_timing_gets_a_worker_that_did_nothing_else(
    made: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a build left in memory must not stand in a latency's; one that only timed may time again."""
    launcher = launcher_of(made, tmp_path)
    launcher.logs.mkdir(parents=True)
    built, timed, waited, new = Pipe(), Pipe(), Pipe(), Pipe()
    timings = [s for s in made.steps.values() if s.exclusive]
    launcher.idle = [
        _Worker(gone(), timed[0]), _Worker(gone(), waited[0]), _Worker(gone(), built[0], fresh=False)
    ]  # fmt: skip
    launcher._start(timings[0])
    assert timed[1].recv()[0].key == timings[0].key
    assert launcher.idle == []
    for _, gone_too in (built, waited):
        with pytest.raises(EOFError):
            gone_too.recv()
    build = next(s for s in made.steps.values() if not s.exclusive)
    launcher.idle = [launcher.running.pop(timed[0])]
    launcher._start(build)
    launcher.idle = [launcher.running.pop(timed[0])]
    monkeypatch.setattr(launcher, "_hire", lambda: _Worker(gone(), new[0]))
    launcher._start(timings[1])
    assert new[1].recv()[0].key == timings[1].key


def test_interpreters_start_before_they_are_wanted(made: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as will work at once, and one that did nothing else before the timings; none beside a timing."""
    launcher = launcher_of(made, tmp_path)
    hired: list[_Worker] = []

    def hire() -> _Worker:
        hired.append(_Worker(gone(), Pipe()[0]))
        return hired[-1]

    monkeypatch.setattr(launcher, "_hire", hire)
    shared = [s for s in made.steps.values() if not s.exclusive]
    timing = next(s for s in made.steps.values() if s.exclusive)

    def at_work(step: Any, fresh: bool) -> None:
        launcher.running = {pipe: _Worker(gone(), pipe, fresh, step) for pipe in Pipe()[:1]}
        launcher._hire_ahead()

    at_work(shared[0], fresh=False)
    assert launcher.idle == hired
    assert len(hired) == 2, "one works of two that will, and one is for the timings"
    launcher._hire_ahead()
    assert len(hired) == 2
    hired[0].fresh = False
    launcher._hire_ahead()
    assert len(hired) == 2, "one that has worked will work again"
    hired[1].fresh = False
    launcher._hire_ahead()
    assert [w.fresh for w in launcher.idle] == [False, False, True]
    launcher.done |= {s.key for s in shared[:-1]}
    launcher.idle = [hired[2]]
    at_work(shared[-1], fresh=False)
    assert len(hired) == 3, "nothing else is left to build"
    launcher.idle.clear()
    at_work(timing, fresh=True)
    launcher.done.clear()
    launcher._hire_ahead()
    launcher._fork_server = True
    at_work(shared[0], fresh=False)
    assert len(hired) == 3


def test_a_worker_that_did_nothing_else_is_kept_for_the_timings(
    made: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = launcher_of(made, tmp_path)
    pipes = [Pipe() for _ in range(2)]
    fresh, used = (_Worker(gone(), here, fresh=f) for (here, _), f in zip(pipes, (True, False), strict=True))
    for idle in ([fresh, used], [used, fresh]):
        launcher.idle = idle
        assert launcher._given("task", exclusive=False) is used
        assert launcher.idle == [fresh]


def test_on_a_gpu_an_idle_process_imports_more_until_a_step_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[str] = []
    names = ("json", "no_such_module", "decimal", "fractions")

    def bring(name: str) -> Any:
        came.append(name)
        return import_module(name)

    monkeypatch.setattr(preload, "MORE", names)
    monkeypatch.setattr("importlib.import_module", bring)
    for device, expected in (("cpu", []), ("cuda", list(names[:3]))):
        monkeypatch.setattr(preload, "detect", lambda device=device: replace(MACHINE, device=device))
        preload.more(lambda: len(came) < 3)
        assert came == expected


@pytest.mark.parametrize("server", [True, False])
def test_the_fork_server_leaves_ctrl_c_to_the_grid_from_the_first_import_on(server: bool) -> None:
    """Else its traceback is what one sees who stops a grid in its first seconds."""
    heavy = ("torch", "transformers", "torchao", "bitsandbytes")
    code = f"import signal, sys; sys.modules.update(dict.fromkeys({heavy}))\n"
    code += "from multiprocessing.forkserver import main\n" if server else ""
    code += "import harness.preload; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{server}\n"


@pytest.mark.parametrize("broken", ["harness.execute", "a step"])
def test_why_a_step_failed_is_heard_though_its_log_cannot_be_written(broken: str) -> None:
    """A full disk, for which the device of that name stands."""
    ours, theirs = Pipe()
    ours.send(({}, [], 1, "/dev/full", True, None))  # no step, so it fails
    hide = f"sys.modules[{broken!r}] = None"
    code = f"import sys; sys.stderr = open('/dev/full', 'w'); sys.modules['harness.preload'] = sys; {hide}\n"
    code += "from multiprocessing.connection import Connection; from harness.launch import work\n"
    code += f"work(Connection({theirs.fileno()}), None)"
    subprocess.run([sys.executable, "-c", code], pass_fds=[theirs.fileno()], cwd=ROOT, check=True)
    theirs.close()  # so that nothing said is the end of the file
    kind, reason, _ = ours.recv()
    assert kind == "failed"
    assert reason.startswith("ModuleNotFoundError" if broken == "harness.execute" else "AttributeError: ")


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


def test_a_dead_worker_is_noticed_though_what_it_forked_lives(
    made: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper holds the pipe's other end, so no end of file comes. Of one that has said a last word that is heard."""
    launcher = launcher_of(made, tmp_path)
    steps, pipes = list(made.steps.values()), [Pipe() for _ in range(3)]
    killed, spoke, lives = (
        _Worker(SimpleNamespace(exitcode=code, pid=0), pipe, step=step)
        for code, (pipe, _), step in zip((-9, 0, None), pipes, steps, strict=False)
    )
    launcher.running = {w.pipe: w for w in (killed, spoke, lives)}
    pipes[1][1].send(("failed", "no such device", ""))
    monkeypatch.setattr("harness.launch.wait", lambda *_, **__: [])
    launcher._listen()
    assert list(launcher.running.values()) == [spoke, lives]
    assert launcher.failed[steps[0].key].startswith("base: killed (SIGKILL)")
    monkeypatch.setattr("harness.launch.wait", lambda *_, **__: [spoke.pipe])
    launcher._listen()
    assert list(launcher.running.values()) == [lives]
    assert launcher.failed[steps[1].key] == "adapt: no such device"


def test_a_worker_that_cannot_import_says_so(made: Plan, tmp_path: Path) -> None:
    """A real process, whose imports fail before any step comes."""
    ours, theirs = Pipe()
    hide = "import sys; sys.modules.update({'harness.execute': None, 'harness.preload': sys})"
    code = f"{hide}; from multiprocessing.connection import Connection; from harness.launch import work; "
    code += f"work(Connection({theirs.fileno()}), None)"
    subprocess.run([sys.executable, "-c", code], pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL, check=True)
    kind, reason, _ = ours.recv()
    assert kind == "failed"
    assert reason.startswith("ModuleNotFoundError: import of harness.execute halted")


@pytest.mark.parametrize(
    ("code", "said", "kills", "reason"),
    [
        (-9, "", 0, "killed (SIGKILL): by somebody; the system counts no kill for want of memory"),
        (-9, "", 1, "killed (SIGKILL): out of memory: the system counts such a kill meanwhile"),
        (-9, "row 7\n\n", None, "killed (SIGKILL): out of memory?: row 7 (log: LOG)"),
        (-11, "", 0, "crashed (SIGSEGV)"),
        (1, "", 0, "ended without a word (exit code 1)"),
    ],
)
def test_an_end_without_a_word_is_told(tmp_path: Path, code: int, said: str, kills: int | None, reason: str) -> None:
    log = tmp_path / "log"
    log.write_text(said)
    assert fate(code, log, kills) == reason.replace("LOG", str(log))
    assert fate(code, tmp_path / "none", kills).startswith(reason.partition(": row")[0])


def test_want_of_memory_and_of_disk_is_told_with_its_mend() -> None:
    """As Python, PyTorch on a CPU, and a library that raises an error of its own say it."""
    import torch

    for greedy in (lambda: bytearray(2**60), lambda: torch.empty(2**50)):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            greedy()
        assert told(caught.value).startswith("out of memory: ")
    full = Exception("Error while serializing: I/O error: No space left on device (os error 28)")
    assert told(full).startswith("disk full: ")
    assert told(full).endswith("free space and run again, what is done is kept")
    assert told(ValueError("no")) == "ValueError: no"


def test_a_step_over_its_limit_ends_with_its_stack(tmp_path: Path) -> None:
    """A real process; within its limit it ends by itself, and its time goes on to nobody."""
    code = (
        "import threading\nfrom harness.execute import _limited\nwith _limited(60): pass\n"
        "with _limited(0.2):\n    threading.Event().wait()"
    )
    log = tmp_path / "log"
    with log.open("w") as sink:
        done = subprocess.run([sys.executable, "-c", code], stderr=sink, cwd=ROOT, check=False, timeout=60)
    assert fate(done.returncode, log, 0).startswith("hung: over runner.step_limit_minutes, at File ")
    log.write_text("Timeout (0:00:01)!\n")  # a full disk has no room for the stack
    assert fate(1, log, 0).startswith("hung: over runner.step_limit_minutes")
    with log.open("w") as sink:
        soon = "from harness.execute import _limited\nwith _limited(60): print()\nwith _limited(None): print()"
        assert not subprocess.run([sys.executable, "-c", soon], stderr=sink, cwd=ROOT, check=False).returncode
    assert log.read_text() == ""


def test_a_worker_that_cannot_end_itself_is_killed(made: Plan, tmp_path: Path) -> None:
    launcher, killed = launcher_of(made, tmp_path), []
    launcher.step_limit_s = 10.0
    waits, works, hangs = (_Worker(SimpleNamespace(kill=lambda n=n: killed.append(n)), Pipe()[0]) for n in range(3))
    now = time.monotonic()
    works.begun, hangs.begun = now - 10.0, now - 10.0 - GRACE_S - 1.0
    launcher.running = {w.pipe: w for w in (waits, works, hangs)}
    launcher._kill_overdue()
    launcher._kill_overdue()
    assert killed == [2]
    assert "could not end itself" in str(hangs.reason)


def test_a_worker_ends_with_its_grid(tmp_path: Path) -> None:
    """The grid's process is killed while a worker waits for work that never comes: the worker goes too."""
    code = (
        "import multiprocessing, os, signal, sys\nfrom harness.launch import work\n"
        "if __name__ == '__main__':\n"
        "    ours, theirs = multiprocessing.Pipe()\n"
        f"    child = multiprocessing.get_context('spawn').Process(target=work, args=(theirs, {str(tmp_path)!r}))\n"
        "    child.start(); print(child.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = tmp_path / "grid.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -9
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(timeout=60)


class Model:
    """What a step loads."""


def test_an_exception_that_a_library_keeps_holds_no_model_of_an_earlier_step() -> None:
    kept: list[BaseException] = []

    def step() -> weakref.ref[Model]:
        model = Model()
        try:
            import_module("no_such_module")
        except ImportError as error:
            kept.append(error)
        return weakref.ref(model)

    held = step()
    assert held() is not None, "by the frame in the exception's traceback"
    tidy()
    assert held() is None
    assert str(kept[0]) == "No module named 'no_such_module'"
