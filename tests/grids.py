"""Runs the command line as a user does, on a tiny random model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.warm import Warm

ROOT = Path(__file__).parent.parent
PATHS = f"{ROOT}{os.pathsep}{ROOT / 'runners'}"
SECRET = "hf_" + "nobodysToken" * 3  # stands where the Hub's client looks for one; nothing may write it down
WARM = Warm()
HELP = "(python -m harness --help)"  # how a mistake of the command line ends
TINY = (
    "model=dummy_tiny", "model.score_quality=true", "profile=quick", "profile.train_rows=20", "profile.eval_rows=6",
    "profile.calibration_rows=2", "profile.requests=2", "profile.output_tokens=4", "profile.batch_size=2",
    "profile.batch_tokens=4", "suite.max_new_tokens=12",
)  # fmt: skip


def environment(cwd: Path) -> dict[str, str]:
    """Of a process that finds the harness from any folder: plain output wide enough not to wrap, and a temporary folder
    of its own, since grids of one machine wait for each other's latencies through a lock there."""
    return {**os.environ, "COLUMNS": "200", "PYTHONPATH": PATHS, "TMPDIR": str(cwd), "HF_TOKEN": SECRET}


def python(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m` or `-c` with ARGUMENTS in a folder of its own, without the wait for its imports."""
    return WARM.run(cwd, environment(cwd), arguments, timeout_s=900)


def interpreter(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As `python`, by an interpreter that starts as a user's does."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment(cwd), capture_output=True, text=True, timeout=900, check=False
    )


def harness(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m harness ARGUMENTS` in a folder of its own."""
    return python(cwd, "-m", "harness", *arguments)


def told(cwd: Path, *arguments: str) -> list[str]:
    """The mistakes that a command is refused for, without the program's name."""
    done = harness(cwd, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("harness: ") for line in lines), done.stderr
    assert not list(cwd.glob("outputs/**")), "a refused command left a run"
    return [line.removeprefix("harness: ") for line in lines]


def beginning(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    """As `harness`, without waiting for its end: its output is read line by line from `stdout`."""
    command = [sys.executable, "-u", "-m", "harness", *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment(cwd), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_folder(done: subprocess.CompletedProcess[str]) -> Path:
    """The run folder that the last line of output names."""
    found = re.search(r"^report: (.+)/report\.html$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return Path(found.group(1))


def linked(folder: Path, to: Path) -> Path:
    """A copy of a folder whose files are links, which takes no time, without the locks: held in one, they would be so
    in both."""
    shutil.copytree(folder, to, copy_function=os.link, ignore=shutil.ignore_patterns("*.lock"))
    return to


def builds(cwd: Path) -> set[str]:
    """The builds in the store: kind/key."""
    return {f"{m.parent.parent.name}/{m.parent.name}" for m in (cwd / ".harness/store").glob("*/*/manifest.json")}
