"""Who reads what a command says, and on what, ends no work: a reader who leaves, an encoding of few characters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
