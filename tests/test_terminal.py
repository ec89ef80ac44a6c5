"""Who reads what a command says, and on what, ends no work: a reader who leaves, an encoding of few characters."""

from __future__ import annotations

import os
import subprocess
import sys
from errno import EACCES, EIO, ENAMETOOLONG, ENOSPC
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from tests.building import main as build
from tests.grids import environment

SAYS = """
from harness.terminal import outlive_readers, speaker
outlive_readers()
for _ in range(3):
    print("5 ± 1 points " * 1000, flush=True)
    speaker().print("5 ± 1 points · " * 20)
print("the end")
raise SystemExit(7)
"""


def unheard(cwd: Path, *arguments: str) -> int:
    """The exit code of a command whose output nobody reads, from its first byte on."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment(cwd), stdout=writing, stderr=writing, check=False)
    os.close(writing)
    return done.returncode


def test_a_reader_who_leaves_ends_nothing(tmp_path: Path) -> None:
    assert unheard(tmp_path, "-c", SAYS) == 7


@pytest.mark.parametrize(
    ("code", "arguments"),
    [(0, "harness --version"), (2, "harness modell=x"), (2, "harness.check"), (2, "harness.report ."),
     (2, "harness.suites check none"), (0, "harness.store ls"), (0, "harness.store verify")],
)  # fmt: skip
def test_exit_codes_are_the_same_where_nobody_reads(tmp_path: Path, code: int, arguments: str) -> None:
    build(str(tmp_path / ".harness/store"), str(tmp_path / "run"), "1")
    assert unheard(tmp_path, "-m", *arguments.split()) == code


@pytest.mark.parametrize("arguments", ["harness model=dummy_tiny --dry-run", "harness.store ls"])
def test_a_closed_stdout_is_none(tmp_path: Path, arguments: str) -> None:
    build(str(tmp_path / ".harness/store"), str(tmp_path / "run"), "1")
    command = f"{sys.executable} -m {arguments} >&-"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment(tmp_path), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("columns", "lines"), [(None, 3), ("80", 12)])
def test_what_an_encoding_lacks_is_escaped_and_only_a_terminal_breaks_lines(
    tmp_path: Path, columns: str | None, lines: int
) -> None:
    surroundings = {**environment(tmp_path), "PYTHONIOENCODING": "ascii", "COLUMNS": columns or ""}
    if columns is None:
        del surroundings["COLUMNS"]
    done = subprocess.run([sys.executable, "-c", SAYS], env=surroundings, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (7, "")
    assert r"5 \xb1 1 points" in done.stdout
    assert len(done.stdout.splitlines()) == 3 + lines + 1


MEND = "free space, or mend its rights, and run again"
RED = "\x1b[31mred"
COMMANDS = (
    "__main__",
    "check.__main__",
    "export.__main__",
    "report.__main__",
    "reproduce",
    "suites.__main__",
    "store.__main__",
)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("__main__", [f"model={RED}"]), ("check.__main__", ["x", "--baseline", RED]), ("check.__main__", [f"--{RED}"]),
        ("export.__main__", [RED, "--to", "x"]), ("report.__main__", [RED]), ("reproduce", [RED]),
        ("suites.__main__", ["check", RED]), ("store.__main__", ["--store", RED, "ls"]),
        ("store.__main__", ["ls", RED]),
    ],
)  # fmt: skip
def test_no_mistake_writes_control_characters(
    command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Which could hide what is said, or turn it round."""
    assert import_module(f"harness.{command}").main(arguments) == 2
    err = capsys.readouterr().err
    assert "⟨U+001B⟩[31mred" in err
    assert "\x1b" not in err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_what_each_exit_code_means(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_module(f"harness.{command}").main(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.partition("xit codes: ")[2].split())
    assert [code for code in (0, 2, 70, 130) if f"{code} " not in told] == []


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("error", "code", "told"),
    [(RuntimeError("a fault"), 70, "RuntimeError: a fault\n"), (KeyboardInterrupt(), 130, "harness: stopped\n"),
     (UserError(["one", "two"]), 2, "harness: one\nharness: two\n"), (SystemExit(7), 7, ""),
     (OSError(ENOSPC, "full"), 2, f"harness: full; {MEND}\n"), (OSError(EIO, "broken"), 70, "broken\n"),
     (OSError(EACCES, "no right", "from", None, "to"), 2, f"harness: to: no right; {MEND}\n"),
     (OSError(ENAMETOOLONG, "too long", "x"), 2, "harness: x: too long; give a shorter one\n")],
)  # fmt: skip
def test_all_commands_end_in_one_way(
    command: str, error: BaseException, code: int, told: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """1, which is Python's own code for an exception, says something else in each of them."""

    def work(*_: Any) -> int:
        raise error

    module = import_module(f"harness.{command}")
    monkeypatch.setattr(module, "_run", work)
    assert module.main([]) == code
    err = capsys.readouterr().err
    assert err.endswith(told)
    assert ("Traceback" in err) == (code == 70)
