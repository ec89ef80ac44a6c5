"""Builds on disk, each under the hash of what it was made from.

    <root>/<kind>/<key>/manifest.json    the facts of a build and the SHA-256 of each of its files
    <root>/<kind>/<key>.lock             held by whoever builds it, freed by the system when that process dies
    <root>/tmp/<key>-<random>/           a build at work
    <root>/running/<name>.keys           the builds that a running grid needs, beside a lock that it holds
    <root>/logs/                         what steps said

A build is written in a temporary folder, synced, its manifest last, and renamed into place, so a folder in the store
is whole or absent. A lock per key makes two processes that want the same build make it once. A manifest may outlive its
files (`evict`): its facts go on standing in records, and the files are built again when a step needs them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from harness.environment import cache_folder
from harness.errors import BrokenArtifact, UserError
from harness.files import cannot_write, parse, sha256, sync, write_whole
from harness.types import Json, Step, StepKind, digest

REMEMBERED = 2**24  # bytes from which a file's checksum is kept for the next start: a hundredth of a second
LONG = 8 * 10**9  # bytes whose reading is told: it takes many seconds
SETTLED_S = 2.0  # a file changed so shortly ago may change once more within one tick of its file system's clock
MANIFEST = "manifest.json"
KEY = re.compile(r"[0-9a-f]{16}")
FACTS = {"kind": str, "key": str, "title": str, "preimage": dict, "seconds": int | float, "bytes": int, "facts": dict,
         "environment": dict, "created_unix": int, "files": dict}  # fmt: skip


def files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The plain files below a folder with what the system says of each; links, and what goes meanwhile, left out."""
    for above, _, names in os.walk(folder):
        for path in (Path(above, name) for name in names):
            with contextlib.suppress(OSError):
                told = path.lstat()
                if stat.S_ISREG(told.st_mode):
                    yield path, told


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(told.st_size for _, told in files_below(folder))


def content(files: Iterable[Path]) -> str:
    """A digest of files by name, size and every byte. Of large ones whose place, inode, size and times are those of an
    earlier start it is remembered: a checkpoint of gigabytes is read once."""
    paths = sorted(files)
    seen = hashlib.sha256()
    for file, checksum in zip(paths, _checksums(paths), strict=True):
        seen.update(f"{file.name} {file.stat().st_size} {checksum} ".encode())
    return seen.hexdigest()[:16]


def _checksums(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file, from this user's cache where the file is as it was."""
    home = cache_folder()
    memory = home and home / "checksums.json"
    known = _remembered(memory)
    about = [(str(path.resolve()), path.stat()) for path in paths]
    marks = {at: [t.st_dev, t.st_ino, t.st_size, t.st_mtime_ns, t.st_ctime_ns] for at, t in about}
    now = time.time()
    unread = sum(told.st_size for at, told in about if (known.get(at) or [None])[0] != marks[at])
    if paths:
        _tell_long(unread, paths[0].parent, ", once")

    def of(at: str) -> str:
        found: list[Any] = known.get(at) or [None, ""]
        return str(found[1]) if found[0] == marks[at] else sha256(Path(at))

    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(of, (at for at, _ in about)))
    news = {
        at: [marks[at], checksum]
        for (at, told), checksum in zip(about, sums, strict=True)
        if told.st_size >= REMEMBERED and max(told.st_mtime, told.st_ctime) < now - SETTLED_S
    }
    if memory and not news.items() <= known.items():
        kept = {at: found for at, found in _remembered(memory).items() if os.path.exists(at)} | news
        with contextlib.suppress(OSError):  # it is read again next time
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, kept)
    return sums


def _tell_long(unread: int, where: Path, often: str = "") -> None:
    if unread >= LONG:
        said = f"harness: reading {unread / 1e9:.0f} GB in {where} for their checksums{often}"
        print(said, file=sys.stderr, flush=True)


def _remembered(memory: Path | None) -> dict[str, Any]:
    try:
        found = parse(memory.read_text(encoding="utf-8")) if memory else {}
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(v, list) and len(v) == 2 for v in found.values())
    return found if whole else {}


def write_json(path: Path, value: Json) -> None:
    """Writes JSON so that a reader or a crash never sees half of it."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace"))


def sealed(manifest: Mapping[str, Json]) -> dict[str, Json]:
    """A manifest with a digest of itself, so that a changed bit in it is seen too."""
    bare: dict[str, Json] = json.loads(json.dumps({k: v for k, v in manifest.items() if k != "digest"}))
    return {**bare, "digest": digest(bare)}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a build's folder. Raises `FileNotFoundError`, `PermissionError`, and `ValueError` where it is not
    what was written."""
    try:
        found = parse((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(folder / MANIFEST) from None
    except PermissionError:  # it may be whole
        raise
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(k), kind) for k, kind in FACTS.items()):
        raise ValueError("not a manifest")
    if not all(isinstance(f, dict) and {"bytes", "sha256"} <= {*f} for f in found["files"].values()):
        raise ValueError("not a manifest: its files lack their sizes or checksums")
    if sealed(found)["digest"] != found.get("digest"):
        raise ValueError("its bytes have changed")
    if (found["kind"], found["key"]) != (folder.parent.name, folder.name):
        raise ValueError(f"of another build, {found['kind']}/{found['key']}")
    return found


def described(folder: Path) -> dict[str, Json]:
    """Size and SHA-256 of each file below a folder, once all of it is on the disk."""
    paths = sorted(folder.rglob("*"))
    files = [p for p in paths if p.is_file()]
    for path in (*paths, folder):
        sync(path)
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(sha256, files))
    return {
        f.relative_to(folder).as_posix(): {"bytes": f.stat().st_size, "sha256": s}
        for f, s in zip(files, sums, strict=True)
    }


def faults(folder: Path, thorough: bool = False) -> list[str]:
    """What is wrong with a build: its manifest, a file that is missing or of another size, and when `thorough` one
    whose bytes have changed. Nothing for an evicted one. Raises `PermissionError` for what may not be read."""
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        return [f"{MANIFEST}: missing"]
    except ValueError as error:
        return [f"{MANIFEST}: {error}"]

    def fault(name: str, made: Mapping[str, Any]) -> str:
        try:
            size = (folder / name).stat().st_size
            if size != made["bytes"]:
                return f"{name}: {size} bytes, {made['bytes']} were built"
            changed = thorough and sha256(folder / name) != made["sha256"]
            return f"{name}: its bytes have changed since it was built" if changed else ""
        except PermissionError:
            raise
        except (OSError, ValueError) as error:  # ValueError: no name of a file
            return f"{name}: {getattr(error, 'strerror', None) or error}"

    files = {} if "evicted_unix" in manifest else manifest["files"]
    if thorough:
        _tell_long(folder_bytes(folder), folder)
    with ThreadPoolExecutor(4) as pool:
        return list(filter(None, (pool.map if thorough else map)(fault, files, files.values())))


class Store:
    """A folder of builds; see the module. Those whose manifests have one of the digests `outdated` count as not there:
    they stay until built anew."""

    def __init__(self, root: Path, outdated: Iterable[str] = ()) -> None:
        self.root = root.absolute()
        self.outdated = frozenset(outdated)

    def unwritable(self, mend: str = "set store=DIR") -> list[str]:
        """A line where nothing can be written, with how to `mend` that."""
        reason = cannot_write(self.root)
        return [f"store {self.root}: cannot be written ({reason}); {mend}"] if reason else []

    def prepare(self, mend: str = "set store=DIR") -> None:
        """Makes the folder; raises `UserError` where nothing can be written, with how to `mend` that."""
        if found := self.unwritable(mend):
            raise UserError(found)
        self.root.mkdir(parents=True, exist_ok=True)

    def folder(self, step: Step) -> Path:
        """Where a step's build stands or would stand."""
        return self.root / step.kind / step.key

    def builds(self) -> list[Path]:
        """The folders of all builds, whole or not. Anything else in the store is somebody else's."""
        places = [p for kind in StepKind for p in sorted((self.root / kind).glob("*"))]
        return [p for p in places if KEY.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]

    def manifest(self, step: Step) -> Mapping[str, Any] | None:
        """The manifest of a finished build, its files evicted or not, or None."""
        try:
            found = read_manifest(self.folder(step))
        except (FileNotFoundError, ValueError):
            return None
        return None if found["digest"] in self.outdated else found

    def is_whole(self, step: Step, thorough: bool = False) -> bool:
        """Whether a build and all its files are there."""
        manifest = self.manifest(step)
        return manifest is not None and "evicted_unix" not in manifest and not faults(self.folder(step), thorough)

    def demand(self, step: Step) -> Path:
        """The folder of a build that another step is to use. Raises `BrokenArtifact` where it is not whole."""
        if self.is_whole(step):
            return self.folder(step)
        told = "; ".join(faults(self.folder(step))) or "its files were evicted"
        raise BrokenArtifact(f"{step.kind}/{step.key} changed while this grid ran ({told}); run again to build it anew")

    def touch(self, step: Step) -> None:
        """Notes that a build was used now: the oldest go first when space is wanted."""
        with contextlib.suppress(OSError):  # gone, or a store that may only be read
            os.utime(self.folder(step) / MANIFEST)

    def discard(self, key: str) -> None:
        """Removes what killed processes had half built of a key, unless somebody holds its lock: it is theirs then."""
        locks = [lock for kind in StepKind if (lock := self.root / kind / f"{key}.lock").exists()]
        with contextlib.suppress(Timeout), contextlib.ExitStack() as held:
            for lock in locks:
                held.enter_context(FileLock(lock, timeout=0))
            for part in (self.root / "tmp").glob(f"{key}-*") if locks else ():
                shutil.rmtree(part, ignore_errors=True)

    def clean(self) -> None:
        """Removes what killed processes had half built, and their lists."""
        with self.upkeep():
            pass  # forgets what dead grids needed
        for key in {part.name.partition("-")[0] for part in (self.root / "tmp").glob("*")}:
            if KEY.fullmatch(key):
                self.discard(key)

    def remove(self, folder: Path) -> None:
        """Takes a build away, in one move. Raises `Timeout` while somebody builds it."""
        with FileLock(folder.with_suffix(".lock"), timeout=0):
            part = self.root / "tmp" / f"{folder.name}-{uuid4().hex[:8]}"
            part.parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                folder.replace(part)
            shutil.rmtree(part, ignore_errors=True)

    def evict(self, folder: Path) -> bool:
        """Takes the files of a build and leaves its manifest; says whether there were any, be it that an eviction was
        killed before it had taken all. Raises `Timeout` while somebody builds it."""
        with FileLock(folder.with_suffix(".lock"), timeout=0):
            manifest = read_manifest(folder)
            files = [path for path in folder.iterdir() if path.name != MANIFEST]
            if "evicted_unix" not in manifest:
                used = (folder / MANIFEST).stat()
                write_json(folder / MANIFEST, sealed({**manifest, "evicted_unix": int(time.time())}))
                os.utime(folder / MANIFEST, (used.st_atime, used.st_mtime))
            for path in files:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            return bool(files)

    @contextlib.contextmanager
    def upkeep(self) -> Iterator[set[str]]:
        """Keeps grids from starting, and gives the keys that running ones need; those of dead ones are forgotten."""
        folder, needed = self.root / "running", set()
        with FileLock(self.root / "upkeep.lock"):
            for path in folder.glob("*.keys"):
                try:
                    with FileLock(path.with_suffix(".lock"), timeout=0):
                        path.unlink(missing_ok=True)
                    path.with_suffix(".lock").unlink(missing_ok=True)
                except Timeout:
                    with contextlib.suppress(FileNotFoundError):  # its grid ends right now
                        needed.update(path.read_text(encoding="utf-8").split())
            yield needed

    @contextlib.contextmanager
    def hold(self, keys: Iterable[str]) -> Iterator[None]:
        """Keeps builds from `upkeep` for as long as a grid runs, or its process lives."""
        path = self.root / "running" / f"{uuid4().hex}.keys"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        with FileLock(self.root / "upkeep.lock"):
            lock.acquire()
            write_whole(path, "\n".join(keys).encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock.release()
            path.with_suffix(".lock").unlink(missing_ok=True)

    def build(self, step: Step, work: Callable[[Path], Mapping[str, Json]], environment: Mapping[str, Json]) -> None:
        """Does `work(folder)` unless the build is there; `work` returns the facts for the manifest. What stands there
        stays until the new build is whole.

        Raises what `work` raises; the store is then as before.
        """
        target = self.folder(step)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if self.is_whole(step):
                return
            part = self.root / "tmp" / f"{step.key}-{uuid4().hex[:8]}"
            part.mkdir(parents=True)
            try:
                start, used = time.monotonic(), sum(os.times()[:4])
                facts = work(part)
                for path, told in files_below(part):
                    if told.st_nlink == 1:  # no file of the build before
                        path.chmod(part.stat().st_mode & 0o666)  # weights come readable by their owner alone
                manifest = {
                    "kind": step.kind, "key": step.key, "title": step.title, "preimage": step.preimage,
                    "seconds": round(time.monotonic() - start, 3), "bytes": folder_bytes(part), "facts": facts,
                    "environment": environment, "created_unix": int(time.time()), "files": described(part),
                    "cpu_seconds": round(sum(os.times()[:4]) - used, 3),
                }  # fmt: skip
                write_json(part / MANIFEST, sealed(manifest))
                shutil.rmtree(target, ignore_errors=True)
                part.replace(target)
                sync(target.parent)
            finally:
                shutil.rmtree(part, ignore_errors=True)
