"""Kills real grids at random moments, and looks at what they leave: `python -m tests.faults [KILLS] [SEED]`.

Each grid runs on a tiny random model through the command line. Its own process or one of its workers is killed
after a random line of its output and a random time; the next grid goes on where it stopped. When one has got to its end
the store is emptied and it begins anew. Afterwards all cells must be there, their rows as those of a grid that nobody
disturbed, every build sound, nothing half left over and no worker alive.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from harness import ledger
from harness.store import Store, faults
from harness.types import Status
from tests.grids import TINY, beginning, harness, run_folder

PATIENCE_S = 60.0


def rows_of(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of all cells of a run, each of which must have ended ok."""
    kept = ledger.read_records(run)
    assert {r.id for r in kept} == {*ledger.read_cells(run)}, "cells are missing"
    assert {r.status for r in kept} == {Status.OK}, [r.reason for r in kept]
    return {r.id: ledger.read_rows(run, r) for r in kept}


def disturbed(cwd: Path, drawn: random.Random, *arguments: str) -> str:
    """Starts a grid and kills it or a worker of it; says what was killed when, or that it had ended before."""
    grid = beginning(cwd, *arguments)
    assert grid.stdout
    whole, line = psutil.Process(grid.pid), ""
    for _ in range(drawn.randrange(1, 12)):
        line = grid.stdout.readline() or line
    try:
        grid.wait(timeout=drawn.random())
        return "ended before it was killed"
    except subprocess.TimeoutExpired:
        workers = whole.children(recursive=True)
    victim = drawn.choice([whole, whole, *workers])
    told = f"{'the grid' if victim is whole else 'a child'} after: {line.strip()}"
    try:
        victim.kill()
    except psutil.NoSuchProcess:
        told += " (it had just ended)"
    grid.communicate(timeout=10 * PATIENCE_S)
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
    assert not alive, f"{told}: left alive: {alive}"
    return told


def campaign(cwd: Path, kills: int, seed: int, *arguments: str) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The rows of all cells after so many kills and one undisturbed end, and what was killed."""
    drawn, store = random.Random(seed), Store(cwd / ".harness/store")
    told: list[str] = []
    killed = 0
    while killed < kills:  # one that had ended before is not counted
        told.append(disturbed(cwd, drawn, *arguments))
        ended = "ended before" in told[-1]
        killed += not ended
        print(f"{killed} of {kills}: {told[-1]}", flush=True)
        for build in store.builds():
            assert not faults(build, thorough=True), f"{told[-1]}: {build}"
        for run in (cwd / "outputs").glob("*/*"):
            if (run / "records").is_dir():
                ledger.read_records(run)  # whole or absent
        if ended:
            shutil.rmtree(store.root)
    done = harness(cwd, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [f for build in store.builds() for f in faults(build, thorough=True)]
    assert not list((store.root / "tmp").iterdir()), "half-built folders were left"
    assert not list((store.root / "running").iterdir())
    return rows_of(run_folder(done)), told


def main() -> None:
    given = [int(a) for a in sys.argv[1:]]
    kills, seed = [*given, *(20, 0)[len(given) :]]
    arguments = (*TINY, "adaptation=prompt_rag,lora", "quantization=fp16,int8")
    with tempfile.TemporaryDirectory() as folder:
        quiet, loud = Path(folder) / "quiet", Path(folder) / "loud"
        quiet.mkdir()
        loud.mkdir()
        expected = rows_of(run_folder(harness(quiet, *arguments)))
        found, _ = campaign(loud, kills, seed, *arguments)
    assert found == expected, "results differ from those of an undisturbed grid"
    print(f"{kills} kills: {len(found)} cells, all rows as in an undisturbed grid, nothing lost, nothing half left")


if __name__ == "__main__":
    main()
