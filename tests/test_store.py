"""A build is whole or absent, and made once, whatever goes wrong and whoever else wants it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from errno import ENOSPC
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from filelock import FileLock, Timeout

from harness import store as module
from harness.errors import UserError
from harness.store import MANIFEST, Store, content, files_below, folder_bytes, write_json
from harness.types import Component, Step, StepKind

STEP = Step(
    StepKind.ADAPT, "00ff00ff00ff00ff", "lora · tiny", Component("lora", "tests.faulty.Raises", {}), (), {"a": 1}, 0
)
PATIENCE_S = 20  # how long a thread that hangs may hang before the test says so


def weights(folder: Path) -> Mapping[str, Any]:
    """A build of five bytes."""
    (folder / "model.safetensors").write_bytes(b"12345")
    (folder / "model.safetensors").chmod(0o600)  # as safetensors does
    return {"parameters": 5}


def test_a_build_leaves_its_files_and_a_manifest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.manifest(STEP) is None
    store.build(STEP, weights, {"device": "cpu"})
    manifest = store.manifest(STEP)
    assert manifest
    assert (manifest["kind"], manifest["key"], manifest["preimage"]) == ("adapt", STEP.key, {"a": 1})
    assert (manifest["facts"], manifest["environment"]) == ({"parameters": 5}, {"device": "cpu"})
    assert manifest["bytes"] == 5
    made, new = tmp_path / "adapt" / STEP.key / "model.safetensors", tmp_path / "new"
    assert made.read_bytes() == b"12345"
    new.touch()
    assert made.stat().st_mode == new.stat().st_mode, "others may read the store as far as the user's umask says"
    assert not list((tmp_path / "tmp").iterdir())


def test_what_is_built_is_not_built_again(tmp_path: Path) -> None:
    Store(tmp_path).build(STEP, weights, {})
    before = Store(tmp_path).manifest(STEP)

    def never(_: Path) -> Mapping[str, Any]:
        raise AssertionError("built twice")

    Store(tmp_path).build(STEP, never, {})
    assert Store(tmp_path).manifest(STEP) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_build_that_breaks_off_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """Ctrl-C too: half a model under a right key would be taken for a whole one."""
    store = Store(tmp_path)

    def half(folder: Path) -> Mapping[str, Any]:
        weights(folder)
        raise error

    with pytest.raises(error):
        store.build(STEP, half, {})
    assert store.manifest(STEP) is None
    assert not store.folder(STEP).exists()
    assert not list((tmp_path / "tmp").iterdir())
    store.build(STEP, weights, {})  # and the way is free for the next try
    assert store.manifest(STEP)


def test_the_manifest_comes_last_and_the_rename_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    seen: list[tuple[str, bool]] = []

    def spy(path: Path, value: Any) -> None:
        files = sorted(f.name for f in path.parent.iterdir())
        seen.append((f"{path.name} beside {', '.join(files)}", store.folder(STEP).exists()))
        write_json(path, value)

    monkeypatch.setattr(module, "write_json", spy)
    store.build(STEP, weights, {})
    assert seen == [(f"{MANIFEST} beside model.safetensors", False)]


def test_all_is_on_the_disk_before_the_rename_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename may reach the disk before the bytes do: a loss of power then leaves a whole name and half a file."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(number: int) -> None:
        fsync(number)
        done.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"-> {Path(target).name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    store = Store(tmp_path)
    store.build(STEP, weights, {})
    part = done[1]
    assert part.startswith(f"{STEP.key}-")
    assert done[0] == "model.safetensors"
    assert done[2].startswith(f".{MANIFEST}.")
    assert done[3:] == [f"-> {MANIFEST}", part, f"-> {STEP.key}", "adapt"]


def test_a_folder_without_a_manifest_is_no_build(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.folder(STEP).mkdir(parents=True)
    (store.folder(STEP) / "stray.bin").write_text("of a version that wrote in place")
    assert store.manifest(STEP) is None
    store.build(STEP, weights, {})
    assert sorted(f.name for f in store.folder(STEP).iterdir()) == [MANIFEST, "model.safetensors"]


def test_what_a_killed_process_left_can_be_discarded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left, other = (tmp_path / "tmp" / f"{key}-1a2b3c4d" for key in (STEP.key, "ff" * 8))
    for folder in (left, other):
        folder.mkdir(parents=True)
        weights(folder)
    lock = store.folder(STEP).with_suffix(".lock")
    lock.parent.mkdir()
    with FileLock(lock):  # of another machine on the same volume, that builds it now
        store.discard(STEP.key)
    assert left.exists()
    lock.touch()  # filelock takes it along
    store.discard(STEP.key)
    assert (left.exists(), other.exists()) == (False, True)


def test_a_second_thread_waits_and_does_not_build_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first build ends only once the second has come to the lock, so without one this fails for certain."""
    asked, second_is_here, at_work = [0], threading.Event(), threading.Event()
    built: list[str] = []

    class Spied:
        """A lock that tells when it is asked for the second time."""

        def __init__(self, path: Path) -> None:
            self._lock = FileLock(path)

        def __enter__(self) -> None:
            asked[0] += 1
            if asked[0] == 2:
                second_is_here.set()
            self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    monkeypatch.setattr(module, "FileLock", Spied)

    def slow(folder: Path) -> Mapping[str, Any]:
        built.append(threading.current_thread().name)
        at_work.set()
        assert second_is_here.wait(PATIENCE_S)
        return weights(folder)

    first = threading.Thread(target=lambda: Store(tmp_path).build(STEP, slow, {}), name="first")
    second = threading.Thread(target=lambda: Store(tmp_path).build(STEP, slow, {}), name="second")
    first.start()
    assert at_work.wait(PATIENCE_S)
    second.start()
    first.join(PATIENCE_S)
    second.join(PATIENCE_S)
    assert not first.is_alive()
    assert not second.is_alive()
    assert built == ["first"]
    assert Store(tmp_path).manifest(STEP)


@pytest.mark.parametrize("held", [True, False])
def test_a_grid_that_ends_while_another_looks_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    """It takes its list away between the other's look at the folder and at the list; its lock may be held yet."""
    store = Store(tmp_path)
    (tmp_path / "running").mkdir()
    ending, other = (tmp_path / "running" / f"{name}.keys" for name in ("ending", "other"))
    ending.write_text("00ff00ff00ff00ff")
    other.write_text("11ff00ff00ff00ff")

    class Spied:
        """The lock of each list is held by its grid; that of the one that ends goes with its list, or after it."""

        def __init__(self, path: Path, timeout: float = -1) -> None:
            self.path = path

        def __enter__(self) -> None:
            if self.path.stem == "ending":
                ending.unlink()
            if self.path.stem == "other" or (held and self.path.stem == "ending"):
                raise Timeout(str(self.path))

        def __exit__(self, *_: object) -> None:
            """Released."""

    monkeypatch.setattr(module, "FileLock", Spied)
    with store.upkeep() as needed:
        assert needed == {"11ff00ff00ff00ff"}


def test_the_lock_holds_against_another_process(tmp_path: Path) -> None:
    """A lock that only threads respect would let two runs train the same model side by side."""
    code = (
        "import sys; from filelock import FileLock, Timeout\n"
        "try: FileLock(sys.argv[1]).acquire(timeout=0); print('free')\n"
        "except Timeout: print('held')"
    )

    def from_outside() -> str:
        lock = tmp_path / "adapt" / f"{STEP.key}.lock"
        return subprocess.run([sys.executable, "-c", code, lock], capture_output=True, text=True, check=True).stdout

    during: list[str] = []

    def asks(folder: Path) -> Mapping[str, Any]:
        during.append(from_outside())
        return weights(folder)

    Store(tmp_path).build(STEP, asks, {})
    assert (during, from_outside()) == (["held\n"], "free\n")


def test_a_store_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(UserError, match=rf"store {root}: cannot be written \(.*\); set store=DIR$"):
            Store(root).prepare()
    with pytest.raises(UserError, match=r"cannot be written \(.*\); give another folder with --out$"):
        Store(tmp_path / "file").prepare("give another folder with --out")


def test_prepare_leaves_an_empty_folder(tmp_path: Path) -> None:
    Store(tmp_path / "a" / "b").prepare()
    assert not list((tmp_path / "a" / "b").iterdir())


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    """A value that cannot be written leaves what was there before."""
    path = tmp_path / "x.json"
    write_json(path, {"é": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_is_told_with_the_file_that_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system names none where a write fails."""

    def full(number: int) -> None:
        raise OSError(ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full") as told:
        write_json(tmp_path / "x.json", {})
    assert (told.value.filename, list(tmp_path.iterdir())) == (str(tmp_path / "x.json"), [])


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_no_file_takes_the_place_of_what_is_none(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe, a device and a folder stay, by whatever link they are named."""
    make(tmp_path / "there")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for name in ("there", "link"):
        with pytest.raises(OSError, match="is no plain file") as told:
            write_json(tmp_path / name, {})
        assert told.value.filename == str(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "there"]
    assert not (tmp_path / "there").is_file()
    assert (tmp_path / "link").is_symlink()


def test_folder_bytes_counts_below(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"123")
    (tmp_path / "y").write_bytes(b"12")
    assert folder_bytes(tmp_path) == 5


def test_what_goes_while_it_is_counted_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a running grid, and a file; a link is no file of the folder's."""
    for name in ("a/x", "b/y", "c/z"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"123")
    (tmp_path / "c" / "link").symlink_to(tmp_path / "c" / "z")
    walk = os.walk

    def walked(top: Path) -> Any:
        for at, (above, folders, names) in enumerate(walk(top)):
            if at == 0:
                rmtree(Path(top) / "a")
            if Path(above).name == "b":
                (Path(above) / "y").unlink()
            yield above, folders, names

    monkeypatch.setattr(os, "walk", walked)
    assert [(path.name, told.st_size) for path, told in files_below(tmp_path)] == [("z", 3)]


@pytest.mark.parametrize("at", [0, 100_000, 2**25 - 1])
def test_every_byte_of_a_file_is_in_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Fine-tuning may change few weights of a checkpoint."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights, held = tmp_path / "model.safetensors", bytearray(2**25)
    weights.write_bytes(held)
    before = content([weights])
    assert content([weights]) == before
    held[at] = 1
    weights.write_bytes(held)
    assert content([weights]) != before


def test_a_large_file_that_nobody_touched_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read: list[str] = []

    def summed(path: Path) -> str:
        read.append(path.name)
        return path.read_text()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "sha256", summed)
    monkeypatch.setattr(module, "REMEMBERED", 3)
    monkeypatch.setattr(module, "LONG", 3)
    small, large = (tmp_path / name for name in ("small", "large"))
    small.write_text("ab")
    large.write_text("abc")

    def asked() -> str:
        read.clear()
        return content([small, large])

    first = asked()
    assert (asked(), sorted(read)) == (first, ["large", "small"]), "written just now, it may be written once more"
    monkeypatch.setattr(module, "SETTLED_S", -60.0)
    assert asked() == first
    capsys.readouterr()
    assert (asked(), read) == (first, ["small"])
    assert "checksums" not in capsys.readouterr().err
    told = large.stat()
    while large.stat().st_ctime_ns == told.st_ctime_ns:  # of a clock that ticks some hundred times a second
        large.write_text("abd")
        os.utime(large, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert asked() != first, "its time of modification was set back, as copies do"
    assert f"GB in {tmp_path} for their checksums, once" in capsys.readouterr().err
    memory = tmp_path / "cache/harness/checksums.json"
    assert list(json.loads(memory.read_text())) == [str(large)]
    for spoilt in ("{", "[]", '{"x": 1}', json.dumps({str(large): [None, None]})):
        memory.write_text(spoilt)
        large.write_text("abc")
        assert asked() == first
    monkeypatch.setenv("XDG_CACHE_HOME", str(small))  # a file: nothing can be kept there
    assert asked() == first
