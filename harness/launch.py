"""Runs a plan's steps on this machine, in processes apart from this one, and loses none of what is done.

Ordinary steps share the machine, one thread each (two builds of one thread beat one of two), but only so many train
at a time as are said to fit, since that takes most memory; a latency step has the machine to itself. On a CPU the first
cell goes first and alone until it is timed, so that there is soon something to read; the other latencies wait for the
end, when nothing else is left to do.
"""

from __future__ import annotations

import errno
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from harness.environment import Environment, oom_kills
from harness.errors import HarnessError
from harness.plan import Plan
from harness.standing import standing
from harness.store import Store
from harness.types import WAITS, Step, StepKind

CHILD_ENVIRONMENT = {
    # Large temporaries in huge pages made training and AWQ 2 to 4 times faster, and blocks kept for the next of
    # their size spare page faults. Waiting threads spin for some 30 microseconds: never, and an answer takes 1.7 times
    # as long as a server's; for the milliseconds that are libgomp's default, and they take the other step's core.
    "cpu": {
        "GOMP_SPINCOUNT": "10000", "THP_MEM_ALLOC_ENABLE": "1", "MALLOC_MMAP_THRESHOLD_": "33554432",
        "MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_ARENA_MAX": "2",
    },
    # A cache that grows by a token a step asks for blocks of every size.
    "cuda": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "PYTORCH_ALLOC_CONF": "expandable_segments:True"},
}  # fmt: skip
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # datasets imports JAX and TensorFlow where they are installed, and either takes three quarters of a GPU
    "USE_JAX": "0", "USE_TF": "0", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false", "GPTQMODEL_CPU_WORKERS": "2",
    "PYTHONWARNINGS": "ignore:resource_tracker",  # children leave by os._exit, the system frees what they held
}  # fmt: skip
GRACE_S = 30.0  # for writing the stacks of a hung step


class Watcher(Protocol):
    """Who hears what happens, such as `harness.progress.Board`."""

    def started(self, step: Step) -> None: ...
    def progressed(self, step: Step, fraction: float, note: str) -> None: ...
    def ended(self, step: Step, reason: str | None, seconds: float) -> None: ...


@dataclass(slots=True, eq=False)
class _Worker:
    """A child, what it is doing, and whether it did nothing but timings so far: memory and its blocks are then as a
    server's would be, and no build's."""

    process: Any
    pipe: Connection
    fresh: bool = True
    step: Step | None = None
    started: float = 0.0
    begun: float | None = None
    oom_kills: int | None = None
    reason: str | None = None


def _await(workers: Sequence[_Worker]) -> None:
    """Waits until processes that were told to end are gone; one that does not is killed."""
    for worker in workers:
        worker.process.join(timeout=10)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def work(pipe: Connection, store: Store) -> None:
    """A child's whole life: steps come through the pipe until one is its last; each one's output goes to its log, its
    progress and its fate back through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if "harness.preload" not in sys.modules:  # the fork server has done it
            importlib.import_module("harness.preload").more(lambda: not pipe.poll())
        from harness.execute import carry_out, tidy

        last = False
        while not last:
            step, parents, threads, log, last, limit_s = pipe.recv()
            sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            os.close(sink)
            try:
                carry_out(
                    step,
                    parents,
                    store,
                    lambda fraction, note: pipe.send(("progress", fraction, note)),
                    threads,
                    limit_s,
                )
            except HarnessError as error:
                pipe.send(("failed", str(error), ""))
                break
            except BaseException as error:
                pipe.send(("failed", f"{told(error)} (log: {log})", ""))
                _said(traceback.print_exc)
                break
            if not last:
                tidy()
            _said()
            pipe.send(("done", 1.0, ""))
    except EOFError:
        pass  # the parent has no more work
    except BaseException as error:  # before a step came: a library that does not import
        with suppress(OSError):
            pipe.send(("failed", told(error), ""))
        _said(traceback.print_exc)
    finally:
        _said()
        pipe.close()
        os._exit(0)  # libraries leave threads that would keep a finished child alive


def _said(say: Callable[[], None] = lambda: None) -> None:
    """Writes to the log what a child says, where its disk has room."""
    with suppress(OSError, ValueError):  # ValueError: a stream that was closed
        say()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def _end_with_parent() -> None:
    """Ends this process when the grid's is gone, be it killed: what it holds of memory, device and locks is free."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def told(error: BaseException) -> str:
    """What an error that nobody foresaw means, in a line."""
    said = next((line for line in str(error).strip().splitlines() if line), "no message")
    # PyTorch has an error of its own on a GPU alone, where the line says what it needed and what was free
    wanting = isinstance(error, MemoryError) or os.strerror(errno.ENOMEM) in said
    if wanting or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: {said}"
    if os.strerror(errno.ENOSPC) in said:  # not always an OSError: safetensors and tokenizers raise their own
        return f"disk full: {said}; free space and run again, what is done is kept"
    return f"{type(error).__name__}: {said}"


def fate(exit_code: int | None, log: Path, oom_kills_meanwhile: int | None) -> str:
    """What a child's exit without a word means, and the last line of its log; of one that took too long the line of
    code where its main thread, which is dumped last, stood."""
    text = log.read_text(errors="replace") if log.exists() else ""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    tail = f": {said[-1][-300:]} (log: {log})" if said else ""
    if exit_code == 1 and any(line.startswith("Timeout (") for line in said):  # faulthandler's
        stacks = [i for i, line in enumerate(said) if line.endswith("(most recent call first):")]
        at = max(stacks, default=len(said))  # a full disk may have cut them off
        return f"hung: over runner.step_limit_minutes, at {' '.join(said[at + 1 : at + 2])} (its stack: {log})"
    if exit_code == -signal.SIGKILL:
        counted = {None: "out of memory?", 0: "by somebody; the system counts no kill for want of memory"}
        why = counted.get(oom_kills_meanwhile, "out of memory: the system counts such a kill meanwhile")
        return f"killed (SIGKILL): {why}{tail}"
    if exit_code is not None and exit_code < 0:
        return f"crashed ({signal.Signals(-exit_code).name}){tail}"
    return f"ended without a word (exit code {exit_code}){tail}"


class Launcher:
    """Carries out a plan: `workers` ordinary steps at a time, of which `trainings` may train. With `fork_server` each
    step has a process of its own, a second after it is wanted; without, interpreters start fresh, which takes many
    seconds and is begun ahead, and one that did its step well is given the next, unless it trained; a timing goes to
    one that did nothing else."""

    def __init__(
        self, plan: Plan, store: Store, environment: Environment, workers: int, fork_server: bool, watcher: Watcher,
        step_limit_s: float | None = None, trainings: int = 1,
    ) -> None:  # fmt: skip
        self.plan = plan
        self.store = store
        self.environment = environment
        self.workers = workers
        self.watcher = watcher
        self.failed: dict[str, str] = {}
        self.step_limit_s = step_limit_s
        self.trainings = trainings
        self.done, self.broken = standing(plan, store)
        self.running: dict[Connection, _Worker] = {}
        self.idle: list[_Worker] = []
        self._context: Any = multiprocessing.get_context("forkserver" if fork_server else "spawn")
        self._fork_server = fork_server
        self.logs = store.root / "logs"

    def run(self) -> Mapping[str, str]:
        """Runs every step that is not done; returns why steps failed, by key. `KeyboardInterrupt` stops the
        children, whose half-built folders vanish, and goes on up."""
        os.environ.update(
            {k: os.environ.get(k, v) for k, v in (QUIET | CHILD_ENVIRONMENT[self.environment.device]).items()}
        )
        self.logs.mkdir(parents=True, exist_ok=True)
        if self._fork_server and len(self.done) < len(self.plan.steps):
            self._context.set_forkserver_preload(["harness.preload"])
        try:
            while True:
                self._fail_orphans()
                for step in self._startable():
                    self._start(step)
                self._hire_ahead()
                if not self.running:
                    return self.failed
                self._listen()
        finally:
            everyone = [*self.running.values(), *self.idle]
            for worker in everyone:
                worker.process.terminate()
            _await(everyone)
            for worker in everyone:
                if worker.step:
                    self.store.discard(worker.step.key)

    def _waiting(self) -> list[Step]:
        at_work = {step.key for step in self._busy()}
        return [
            s for s in self.plan.steps.values()
            if s.key not in self.done and s.key not in self.failed and s.key not in at_work
        ]  # fmt: skip

    def _busy(self) -> list[Step]:
        return [w.step for w in self.running.values() if w.step]

    def _fail_orphans(self) -> None:
        for step in self._waiting():
            lost = next((p for p in step.parents if p in self.failed), None)
            if lost:
                self.failed[step.key] = self.failed[lost]

    def _startable(self) -> list[Step]:
        """The steps to start now, by the rule in the module's docstring."""
        ready = [s for s in self._waiting() if set(s.parents) <= self.done]
        busy = self._busy()
        if any(s.exclusive for s in busy):
            return []
        first = self._first_untimed()
        if first:
            ready = [s for s in ready if s.key in first]
        shared = sorted((s for s in ready if not s.exclusive), key=self._urgency)
        alone = [s for s in ready if s.exclusive]
        if alone and not busy and (first or not shared):
            return alone[:1]
        return self._affordable(shared, busy)[: self.workers - len(busy)]

    def _affordable(self, ready: list[Step], busy: list[Step]) -> list[Step]:
        """So many trainings at a time: each needs several times the memory of any other step."""
        adapting = [s for s in ready if s.kind is StepKind.ADAPT]
        free = max(0, self.trainings - sum(s.kind is StepKind.ADAPT for s in busy))
        return [s for s in ready if s not in adapting[free:]]

    def _urgency(self, step: Step) -> tuple[bool, bool, bool, int]:
        """The first cell, then training, the most elaborate first (the longest work, and much waits for it), then
        what others wait for, then the grid's order."""
        order = list(self.plan.steps)
        first = set(next(iter(self.plan.chains.values())).values())
        place, trains = order.index(step.key), step.kind is StepKind.ADAPT
        return step.key not in first, not trains, step.kind is StepKind.QUALITY, -place if trains else place

    def _first_untimed(self) -> set[str]:
        """The keys of the first cell up to its latency, while that is still to come; else nothing. On a GPU, where a
        grid takes minutes, nothing waits for it."""
        if not self.plan.chains or self.environment.device != "cpu":
            return set()
        first = next(iter(self.plan.chains.values()))
        timed = first.get(StepKind.LATENCY)
        if timed is None or timed in self.done or timed in self.failed:
            return set()
        return {first[k] for k in StepKind if k in first and k is not StepKind.QUALITY}

    def _start(self, step: Step) -> None:
        threads = self.environment.cpu_count if step.exclusive else max(1, self.environment.cpu_count // self.workers)
        parents = [self.plan.steps[p] for p in step.parents]
        log = self._log(step)
        with suppress(OSError):  # a full disk, which the step will tell
            log.write_bytes(b"")  # what an earlier run said explains nothing of this one
        task = (step, parents, threads, str(log), self._last(step), self.step_limit_s)
        worker = self._given(task, step.exclusive)
        worker.fresh = worker.fresh and step.exclusive
        worker.step, worker.started, worker.begun, worker.reason = step, time.monotonic(), None, None
        worker.oom_kills = oom_kills()
        self.running[worker.pipe] = worker
        self.watcher.started(step)

    def _last(self, step: Step) -> bool:
        """Whether the worker of a step takes no other after it."""
        return self._fork_server or step.kind is StepKind.ADAPT

    def _log(self, step: Step) -> Path:
        return self.logs / f"{step.kind}-{step.key}.log"

    def _given(self, task: Any, exclusive: bool) -> _Worker:
        """A worker that took a task: an idle one unless it has died, else a new one. Before an exclusive one all other
        idle workers go: what they hold of the device would stand beside the timing."""
        if exclusive:
            able = [w for w in self.idle if w.fresh]
            self._retire([w for w in self.idle if w not in able[:1]])
        while self.idle:
            worker = min(self.idle, key=lambda w: w.fresh)  # one that did nothing yet is kept for a timing
            self.idle.remove(worker)
            with suppress(OSError):
                worker.pipe.send(task)
                return worker
        worker = self._hire()
        with suppress(OSError):  # of one that died at once; its end is then heard as any other's
            worker.pipe.send(task)
        return worker

    def _hire_ahead(self) -> None:
        """Has interpreters start, which takes many seconds, while others work: as many as will work side by side, and
        one that does nothing else before it times. Never beside a timing."""
        if self._fork_server or any(s.exclusive for s in self._busy()):
            return
        timings = [s.exclusive for s in self._waiting()]
        fresh = sum(w.fresh for w in self.idle)
        builders = min(self.workers - len(self.running), timings.count(False)) - (len(self.idle) - fresh)
        wanted = max(builders, 0) + any(timings) - fresh
        self.idle += [self._hire() for _ in range(wanted)]

    def _retire(self, workers: list[_Worker]) -> None:
        """Lets idle workers go, and waits until they are gone."""
        self.idle = [w for w in self.idle if w not in workers]
        for worker in workers:
            worker.pipe.close()
        _await(workers)

    def _hire(self) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        process = self._context.Process(target=work, args=(theirs, self.store))
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _listen(self) -> None:
        for pipe in wait(list(self.running), timeout=0.5):
            assert isinstance(pipe, Connection)
            worker = self.running[pipe]
            assert worker.step
            try:
                kind, first, note = pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                pipe.close()
                self._ended(worker)
                continue
            if kind == "progress":
                worker.begun = worker.begun or (None if note == WAITS else time.monotonic())
                self.watcher.progressed(worker.step, first, note)
            elif kind == "failed":
                worker.reason = first
            elif not self._last(worker.step):
                self.idle.append(worker)
                self._ended(worker)
        for pipe, worker in list(self.running.items()):
            if worker.process.exitcode is not None and not pipe.poll():  # what it forked still holds the pipe
                pipe.close()
                self._ended(worker)
        self._kill_overdue()

    def _kill_overdue(self) -> None:
        """Kills workers that are past their limit and did not end themselves: stopped, or stuck in the system."""
        for worker in self.running.values() if self.step_limit_s else ():
            most = (worker.begun or time.monotonic()) + (self.step_limit_s or 0.0) + GRACE_S
            if time.monotonic() > most and not worker.reason:
                worker.reason = "hung: over runner.step_limit_minutes, and it could not end itself; killed"
                worker.process.kill()

    def _ended(self, worker: _Worker) -> None:
        step = worker.step
        assert step
        del self.running[worker.pipe]
        worker.step = None
        if self.store.is_whole(step):
            self.done.add(step.key)
            reason = None
        else:
            now = oom_kills()
            counted = None if now is None or worker.oom_kills is None else now - worker.oom_kills
            reason = worker.reason or fate(worker.process.exitcode, self._log(step), counted)
            self.failed[step.key] = f"{step.kind}: {reason}"
            self.store.discard(step.key)
        self.watcher.ended(step, reason, time.monotonic() - worker.started)
