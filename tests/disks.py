"""Fills the disk under real grids at many places, and looks at what they leave:
`python -m tests.disks [TIMES [FIRST END]]`, all of so many times or a part of them.

Each grid runs on a tiny random model through the command line, its store, outputs and temporary files on a small disk
of their own (tmpfs). Once the first step has started it shrinks to a share of what the grid needs, or to a little less
than all, where records and reports are written. A grid must say so in lines, lose nothing that stood, and, when the
disk is large again, end as if nothing had been.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import ledger
from harness.store import Store, faults
from tests.faults import rows_of
from tests.grids import TINY, beginning, harness, run_folder

FULL = "No space left on device"
LARGE = "8g"
LATE = 1_500_000  # bytes before the end within which measurements, records and reports are written
PAGE = 4096
ROOM = 64  # pages that what runs meanwhile may take before the disk shrinks


@contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    """A disk over a folder, whose size `resize` changes. Raises `PermissionError` where it may not be mounted."""
    at.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={LARGE}", "tmpfs", at], capture_output=True, check=False
    )
    if done.returncode:
        raise PermissionError(f"needs the right to mount: {done.stderr.decode().strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def resize(disk: Path, size: str) -> None:
    """Changes the size of a disk; what stands on it stays."""
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def taken(disk: Path) -> int:
    """Bytes in use."""
    return shutil.disk_usage(disk).used


def filled(disk: Path, size: int, *arguments: str) -> str:
    """What a grid says whose disk has so many bytes from its first step on; at least what it then has in use."""
    grid = beginning(disk, *arguments)
    assert grid.stdout
    said = []
    for line in grid.stdout:
        said.append(line)
        if " start " in line:
            break
    resize(disk, str(max(size, taken(disk) + ROOM * PAGE) // PAGE * PAGE))
    said += grid.communicate()[0].splitlines(keepends=True)
    resize(disk, LARGE)
    text = "".join(said)
    assert "Traceback" not in text, text
    assert grid.returncode in (0, 1, 2), (grid.returncode, text)
    if grid.returncode:
        assert FULL in text, text
    return text


def harmed(disk: Path) -> list[str]:
    """What stands there and is not whole."""
    store = Store(disk / ".harness/store")
    found = [f"{build}: {f}" for build in store.builds() for f in faults(build, thorough=True)]
    for run in (disk / "outputs").glob("*/*"):
        if (run / "records").is_dir():
            ledger.read_records(run)
        found += [str(p) for p in run.rglob(".*")]
    return found


def campaign(disk: Path, size: int, *arguments: str) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """The rows of all cells after a grid whose disk filled and one on a large disk, and what the first said."""
    said = filled(disk, size, *arguments)
    assert not harmed(disk), said
    done = harness(disk, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((disk / ".harness/store/tmp").iterdir()), "half-built folders were left"
    assert not harmed(disk)
    return rows_of(run_folder(done)), said


def main() -> None:
    given = [int(a) for a in sys.argv[1:]]
    times = given[0] if given else 20
    first, end = given[1:3] or (0, times)
    arguments = (*TINY, "adaptation=lora", "quantization=fp16,int8")
    with tempfile.TemporaryDirectory() as folder:
        with small_disk(Path(folder) / "quiet") as disk:
            expected = rows_of(run_folder(harness(disk, *arguments)))
            whole = taken(disk)
        print(f"undisturbed: {len(expected)} cells, {whole / 1e6:.1f} MB", flush=True)
        full = 0
        for time in range(first, end):
            share = (time + 0.5) / times
            size = round(share * whole) if time % 2 else whole - round(share * LATE)
            with small_disk(Path(folder) / f"{time}") as disk:
                found, said = campaign(disk, size, *arguments)
            assert found == expected, "results differ from those of an undisturbed grid"
            told = next((line.strip() for line in said.splitlines() if FULL in line), "all fitted")
            full += FULL in told
            print(f"{time + 1} of {times}, {size / 1e6:.2f} MB: {told.replace(str(disk), '')[:160]}", flush=True)
    print(f"{full} of {end - first} disks filled: all cells there after a rerun, all rows as in an undisturbed grid")


if __name__ == "__main__":
    main()
