"""`python -m MODULE ...` and `python -c CODE ...` in a fork of a process that has imported already what they will.

Interpreters take ten seconds here to import PyTorch and Transformers, a grid starts two of them, and a test asks for a
grid whose computing takes one. What runs is the same: the command line in a process of its own and, where it wants one,
multiprocessing's fork server, which is forked too. `tests.grids.interpreter` starts a real one.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, util
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent
LONGEST = 2**16  # bytes of a message
IMPORTED = (
    "harness.preload", "harness.grid", "harness.check.__main__", "harness.reproduce", "hydra.main", "lm_eval.evaluator",
    "lm_eval.tasks", "scipy.sparse", "altair", "bm25s",
)  # fmt: skip


class Warm:
    """The process to fork, started when first asked."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: socket.socket

    def _start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        self.pipe, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()], start_new_session=True
        )
        theirs.close()
        atexit.register(self.pipe.close)
        return process

    def run(
        self, cwd: Path, environment: Mapping[str, str], arguments: tuple[str, ...], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` with its output captured."""
        if self.process is None:
            self.process = self._start(environment)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            asked = json.dumps([str(cwd), dict(environment), arguments]).encode()
            assert len(asked) < LONGEST
            socket.send_fds(self.pipe, [asked], [out.fileno(), err.fileno()])
            self.pipe.settimeout(timeout_s)
            try:
                code = json.loads(self.pipe.recv(LONGEST))
            except (TimeoutError, ValueError):
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process = None
                raise
            said = [(file.seek(0), file.read())[1] for file in (out, err)]
        return subprocess.CompletedProcess([sys.executable, *arguments], code, *said)


def serve(pipe: socket.socket) -> tuple[str, ...]:
    """Forks for each command that comes, until there are no more; returns the command in each fork."""
    while True:
        asked, fds, *_ = socket.recv_fds(pipe, LONGEST, 2)
        if not asked:
            os._exit(0)
        child = os.fork()
        if not child:
            pipe.close()
            cwd, environment, arguments = json.loads(asked)
            _become(cwd, environment, fds)
            return tuple(arguments)
        for fd in fds:
            os.close(fd)
        pipe.send(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def _become(cwd: str, environment: Mapping[str, str], fds: list[int]) -> None:
    """Gives this process the surroundings of a command just started."""
    for fd, number in zip(fds, (1, 2), strict=True):
        os.dup2(fd, number)
        os.close(fd)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    sys.path[0] = cwd
    signal.signal(signal.SIGINT, signal.default_int_handler)
    subprocess.Popen = Nested  # type: ignore[misc, assignment]
    util.spawnv_passfds = _forked(util.spawnv_passfds)


class Nested(subprocess.Popen):  # type: ignore[type-arg]
    """As `subprocess.Popen`; a command line of Python's that shares this process's surroundings is a fork too."""

    spawn = staticmethod(util.spawnv_passfds)

    def __init__(self, command: Any, **rest: Any) -> None:
        self.shares = list(command[:1]) == [sys.executable] and not rest
        super().__init__(command, **rest)

    def _execute_child(self, args: Any, *rest: Any) -> None:
        if not self.shares:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            util.spawnv_passfds = _forked(self.spawn)
            _ended(args[1:])
        self._child_created = True


def _forked(spawn: Any) -> Any:
    """A way to start multiprocessing's processes that has a fork server at hand: a fork made before this process has
    threads, files and locks of its own, which takes its command, its files and the environment of that time later."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    waiting = os.fork()
    if not waiting:
        ours.close()
        asked, fds, *_ = socket.recv_fds(theirs, LONGEST, 16)
        if not asked:
            os._exit(0)
        theirs.close()
        command, numbers, environment = json.loads(asked)
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in fds]  # first away from where others belong
        for fd in fds:
            os.close(fd)
        for place, number in zip(high, numbers, strict=True):
            os.dup2(place, number)
            os.close(place)
        os.environ.clear()
        os.environ.update(environment)
        code = 1
        try:
            exec(command, {})
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    theirs.close()

    def started(path: str, arguments: list[Any], fds: Any) -> int:
        command = os.fsdecode(arguments[-1])
        if forkserver.__name__ not in command or ours.fileno() < 0:
            return int(spawn(path, arguments, fds))
        socket.send_fds(ours, [json.dumps([command, sorted(fds), dict(os.environ)]).encode()], sorted(fds))
        ours.close()
        return waiting

    return started


def _carry_out(what: str, name: str, *rest: str) -> None:
    if what == "-m":
        sys.argv = [name, *rest]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [what, *rest]
        exec(compile(name, "<string>", "exec"), {"__name__": "__main__"})


def _ended(command: Sequence[str]) -> NoReturn:
    """Carries a command out and ends as an interpreter would, less the second in which that takes all that was imported
    apart."""
    code = 1
    try:
        _carry_out(*command)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Serves; each fork carries a command out."""
    from harness.preload import bring

    bring(IMPORTED)
    _ended(serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
