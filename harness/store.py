"""Builds on disk, each under the hash of what it was made from.

A build is written in a temporary folder, its manifest last, and renamed into place, so a folder in the store
is whole or absent. A lock per key makes two processes that want the same build make it once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.errors import UserError
from harness.types import Json, Step

PIECE = 65536
MANIFEST = "manifest.json"


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def content(files: Iterable[Path]) -> str:
    """A digest of files by name, size, and up to 257 pieces of 64 KiB spread evenly over each: small files whole, and
    of large ones enough of every layer to see that it was trained anew, without reading gigabytes."""
    seen = hashlib.sha256()
    for file in sorted(files):
        size = file.stat().st_size
        seen.update(f"{file.name} {size} ".encode())
        with file.open("rb") as opened:
            for start in range(0, size, max(PIECE, size // 256)):
                opened.seek(start)
                seen.update(opened.read(PIECE))
    return seen.hexdigest()[:16]


def write_json(path: Path, value: Json) -> None:
    """Writes JSON through a temporary file, so a reader or a crash never sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    part.replace(path)


class Store:
    """A folder of builds: `<root>/<kind>/<key>/` with a `manifest.json` in each."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def prepare(self) -> None:
        """Makes the folder and tries it; raises `UserError` where nothing can be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise UserError(f"store {self.root}: cannot be written ({error.strerror}); set store=DIR") from error

    def folder(self, step: Step) -> Path:
        """Where a step's build stands or would stand."""
        return self.root / step.kind / step.key

    def manifest(self, step: Step) -> Mapping[str, Any] | None:
        """The manifest of a finished build, or None."""
        path = self.folder(step) / MANIFEST
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def discard(self, key: str, process: int) -> None:
        """Removes what a process that was killed had half built."""
        shutil.rmtree(self.root / "tmp" / f"{key}-{process}", ignore_errors=True)

    def build(self, step: Step, work: Callable[[Path], Mapping[str, Json]], environment: Mapping[str, Json]) -> None:
        """Does `work(folder)` unless the build is there; `work` returns the facts for the manifest.

        Raises what `work` raises; the store is then as before.
        """
        target = self.folder(step)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if (target / MANIFEST).exists():
                return
            part = self.root / "tmp" / f"{step.key}-{os.getpid()}"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            try:
                start = time.monotonic()
                facts = work(part)
                manifest = {
                    "kind": step.kind, "key": step.key, "title": step.title, "preimage": step.preimage,
                    "seconds": round(time.monotonic() - start, 3), "bytes": folder_bytes(part),
                    "facts": facts, "environment": environment, "created_unix": int(time.time()),
                }  # fmt: skip
                write_json(part / MANIFEST, manifest)
                shutil.rmtree(target, ignore_errors=True)
                part.replace(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
