"""What is kept of a store's builds: the longest unused go first, and none that a running grid needs."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from harness.store import MANIFEST, Store, files_below, read_manifest
from harness.types import StepKind

Inode = tuple[int, int]  # of a device and on it: one file, under however many names
REBUILT = (StepKind.BASE, StepKind.KERNELS, StepKind.ADAPT, StepKind.QUANTIZE)  # each made from one before it


@dataclass(frozen=True, slots=True)
class Build:
    """A build in a store: its folder, its title (empty where its manifest cannot be read), when it was last used,
    whether its files were evicted, the key of the build that it was made from, and whether its manifest may be read."""

    folder: Path
    title: str
    used_unix: float
    evicted: bool = False
    made_from: str = ""
    readable: bool = True

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"


def builds(store: Store) -> list[Build]:
    """All builds, the longest unused first."""
    found = []
    for folder in store.builds():
        with suppress(OSError):  # taken away meanwhile
            used = folder.stat().st_mtime
            try:
                used = (folder / MANIFEST).stat().st_mtime
                told = read_manifest(folder)
                above = str(told["preimage"].get("model") or told["preimage"].get("base") or "")
                found.append(Build(folder, told["title"], used, "evicted_unix" in told, above))
            except (OSError, ValueError) as error:
                found.append(Build(folder, "", used, readable=not isinstance(error, PermissionError)))
    return sorted(found, key=lambda b: (b.used_unix, b.name))


def occupied_bytes(folders: Iterable[Path]) -> int:
    """Bytes on disk below some folders; a file that stands under several names (weights that one build took over from
    another) is counted once."""
    return sum(_sizes(p for folder in folders for p in files_below(folder)).values())


def _sizes(files: Iterable[tuple[Path, os.stat_result]]) -> dict[Inode, int]:
    return {(told.st_dev, told.st_ino): told.st_size for _, told in files}


def collect(store: Store, unused_s: float) -> list[Build]:
    """Takes away builds that were not used for so long, and logs as old; gives those that went."""
    gone = []
    before = time.time() - unused_s
    store.clean()
    with store.upkeep() as needed:
        for build in builds(store):
            if build.used_unix < before and build.folder.name not in needed:
                with suppress(Timeout):  # at work right now
                    store.remove(build.folder)
                    gone.append(build)
        for log in (store.root / "logs").glob("*.log"):
            with suppress(FileNotFoundError):  # taken away meanwhile
                if log.stat().st_mtime < before and log.stem.rpartition("-")[2] not in needed:
                    log.unlink()
    return gone


def shrink(store: Store, limit_bytes: int) -> list[Build]:
    """Evicts what can be built again, longest unused first, until the builds hold no more than the limit or nothing is
    left that may go; gives those that went. Measurements stay: they are small, and may not come out the same. A build
    goes after all that was made from it, which is sooner made again, and not where what stays holds all its files."""
    gone: list[Build] = []
    with store.upkeep() as needed:
        there = builds(store)
        left = occupied_bytes(b.folder for b in there)
        held = {b: _sizes(f for f in files_below(b.folder) if f[0].name != MANIFEST) for b in there}
        names = Counter(inode for files in held.values() for inode in files)
        going: list[Build] = []
        for build in _children_first(there):
            if left > limit_bytes and build.title and build.folder.name not in needed:
                going.append(build)
                names.subtract(held[build].keys())
                left -= sum(size for inode, size in held[build].items() if not names[inode])
        for build in going:
            if any(not names[inode] for inode in held[build]):
                with suppress(Timeout, FileNotFoundError, ValueError):
                    if store.evict(build.folder):
                        gone.append(build)
    return gone


def _children_first(there: Sequence[Build]) -> list[Build]:
    """Those of some builds that can be built again, longest unused first; what others were made from is used as long as
    they are, and comes after them."""
    used = {b.folder.name: b.used_unix for b in there}
    rebuilt = [b for kind in reversed(REBUILT) for b in there if b.folder.parent.name == kind]
    for build in rebuilt:
        if build.made_from in used:
            used[build.made_from] = max(used[build.made_from], used[build.folder.name])
    return sorted(rebuilt, key=lambda b: used[b.folder.name])
