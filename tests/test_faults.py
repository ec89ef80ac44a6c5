"""Kills, full disks and flipped bits: after each the store and the records are whole, and a rerun ends as if nothing
had happened. A short form; HARNESS_FAULTS=N kills N times, and `python -m tests.faults` does it to real grids."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from harness import files, ledger
from harness.errors import BrokenArtifact, UserError
from harness.plan import Plan
from harness.standing import standing
from harness.store import MANIFEST, Store, faults, folder_bytes, write_json
from harness.store.__main__ import DAY_S
from harness.types import Step, StepKind
from tests.building import contents, step, work
from tests.building import main as building_main
from tests.disks import resize, small_disk
from tests.grids import ROOT

KILLS = int(os.environ.get("HARNESS_FAULTS", "12"))
NUMBERS = tuple(str(n) for n in range(8))


def building(folder: Path, *numbers: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.building", str(folder / "store"), str(folder / "run"), *numbers]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def held(folder: Path) -> dict[str, bytes]:
    """All that builds and records hold but when they were made."""
    store, run = Store(folder / "store"), folder / "run"
    files = {str(p.relative_to(store.root)): p for b in store.builds() for p in b.rglob("*") if p.is_file()}
    files |= {str(p.relative_to(run)): p for p in run.rglob("[!.]*") if p.is_file()}
    return {name: p.read_bytes() for name, p in files.items() if p.name != MANIFEST}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = building(folder, *NUMBERS)
    assert done.wait() == 0, done.stderr
    found = held(folder)
    assert len(found) == 5 * len(NUMBERS)
    return found


def test_killed_at_random_moments_nothing_is_lost_or_half(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    drawn = random.Random(7)
    stood: set[str] = set()
    for kill in range(KILLS):
        process = building(tmp_path, *NUMBERS)
        assert process.stdout
        for _ in range(drawn.randrange(0, 3)):
            stood.add(process.stdout.readline().strip())
        try:
            process.wait(timeout=drawn.random() * 0.03)
        except subprocess.TimeoutExpired:
            process.kill()
        stood |= set(process.communicate()[0].split())
        store = Store(tmp_path / "store")
        assert {b.name for b in store.builds()} >= stood - {""}, "what was said to stand was lost"
        assert [faults(b, thorough=True) for b in store.builds()] == [[]] * len(store.builds())
        if (tmp_path / "run" / "records").exists():
            assert all(r.status == "ok" for r in ledger.read_records(tmp_path / "run"))
        if len(store.builds()) == len(NUMBERS) and kill < KILLS - 1:
            shutil.rmtree(tmp_path / "store")  # begin anew, over records that stand
            stood.clear()
    assert building(tmp_path, *NUMBERS).wait() == 0
    assert held(tmp_path) == undisturbed
    assert not list((tmp_path / "store" / "tmp").iterdir()), "half-built folders were left"
    assert not list((tmp_path / "store" / "running").iterdir()), "lists of dead grids were left"


def test_a_killed_builder_leaves_its_lock_free_and_its_half_is_cleaned(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path / "store"), step(0)
    process = building(tmp_path, "wait")
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    (half,) = (store.root / "tmp").iterdir()
    store.clean()
    assert half.exists(), "the half-built folder of a live process was taken away"
    with pytest.raises(Timeout):
        FileLock(store.folder(wanted).with_suffix(".lock"), timeout=0).acquire()
    with pytest.raises(Timeout):
        store.remove(store.folder(wanted))
    process.kill()
    process.communicate()
    store.clean()
    assert not half.exists()
    store.build(wanted, lambda out: work(0, out), {})
    assert store.is_whole(wanted, thorough=True)


def test_what_a_dead_grid_held_is_free_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    process = building(tmp_path, "1", "wait")
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines == [step(1).key + "\n", "begun\n"]
    with store.upkeep() as needed:
        assert needed == {step(1).key}
    process.kill()
    process.communicate()
    with store.upkeep() as needed:
        assert needed == set()
    assert not list((store.root / "running").iterdir())


def test_two_processes_build_each_thing_once(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    store = Store(tmp_path / "store")
    both = [building(tmp_path, *NUMBERS) for _ in range(2)]
    assert [p.wait() for p in both] == [0, 0]
    assert sorted((store.root / "built").read_text().split()) == sorted(NUMBERS)
    assert held(tmp_path) == undisturbed
    made = {b: (b / MANIFEST).stat().st_ino for b in store.builds()}
    assert building(tmp_path, *NUMBERS).wait() == 0
    assert made == {b: (b / MANIFEST).stat().st_ino for b in store.builds()}


# ---------------------------------------------------------------------------------------------------- flipped and cut


def chain() -> tuple[Plan, list[Step]]:
    base = step(0, StepKind.BASE)
    adapt = step(1, StepKind.ADAPT, (base.key,))
    quantize = step(2, StepKind.QUANTIZE, (adapt.key,))
    quality = step(3, StepKind.QUALITY, (quantize.key,))
    steps = [base, adapt, quantize, quality]
    return Plan((), {s.key: s for s in steps}, {"cell": {s.kind: s.key for s in steps}}, {}), steps


@pytest.fixture
def built(tmp_path: Path) -> tuple[Store, Plan, list[Step]]:
    store = Store(tmp_path)
    made, steps = chain()
    for number, each in enumerate(steps):
        store.build(each, lambda out, n=number: work(n, out), {})  # type: ignore[misc]
    return store, made, steps


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 4
    path.write_bytes(data)


def test_all_stands_when_nothing_happened(
    built: tuple[Store, Plan, list[Step]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of measurements all is read, by several at a time, and told where it takes long."""
    store, made, steps = built
    monkeypatch.setattr("harness.store.LONG", folder_bytes(store.folder(steps[3])))
    together, sha256 = threading.Barrier(3, timeout=20), files.sha256

    def slow(path: Path) -> str:
        together.wait()
        return sha256(path)

    monkeypatch.setattr("harness.store.sha256", slow)
    assert standing(made, store) == ({s.key for s in steps}, {})
    told = f"harness: reading 0 GB in {store.folder(steps[3])} for their checksums\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("at", [0, 17, -1])
def test_a_flipped_bit_is_found_where_it_would_be_read(built: tuple[Store, Plan, list[Step]], at: int) -> None:
    """In weights only before a step reads them: gigabytes of a grid that has nothing to do are left unread."""
    store, made, steps = built
    quantize, quality = steps[2], steps[3]
    flip(store.folder(quantize) / "a.safetensors", at)
    assert standing(made, store)[0] == {s.key for s in steps}
    flip(store.folder(quality) / "b.json", at)
    done, broken = standing(made, store)
    assert done == {s.key for s in steps[:2]}
    assert set(broken) == {quantize.key, quality.key}
    assert "b.json: its bytes have changed" in broken[quality.key]
    assert not store.folder(quality).exists()


def test_what_another_grid_builds_anew_right_now_is_not_done(built: tuple[Store, Plan, list[Step]]) -> None:
    store, made, steps = built
    (store.folder(steps[0]) / "a.safetensors").unlink()
    with FileLock(store.folder(steps[0]).with_suffix(".lock")):
        assert standing(made, store) == ({s.key for s in steps[1:]}, {})


def test_who_only_looks_leaves_what_is_broken_and_sees_what_is_to_be_done(
    built: tuple[Store, Plan, list[Step]],
) -> None:
    store, made, steps = built
    (store.folder(steps[3]) / "b.json").unlink()
    store.evict(store.folder(steps[2]))
    done, _ = standing(made, store, look_only=True)
    assert done == {s.key for s in steps[:2]}, "what is to be done wants the evicted one"
    assert store.folder(steps[3]).is_dir()


@pytest.mark.parametrize("name", ["a.safetensors", "adapter/c.bin"])
def test_a_file_cut_short_or_gone_is_found_without_reading(built: tuple[Store, Plan, list[Step]], name: str) -> None:
    store, made, steps = built
    cut, gone = (store.folder(s) / name for s in steps[:2])
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    with pytest.raises(BrokenArtifact, match="run again to build it anew"):
        store.demand(steps[0])
    done, broken = standing(made, store)
    assert done == {s.key for s in steps[2:]}
    assert f"{name}: {len(contents(0)[name]) - 1} bytes" in broken[steps[0].key]
    assert f"{name}: No such file" in broken[steps[1].key]


def test_no_flipped_bit_in_a_manifest_is_taken_for_a_fact(built: tuple[Store, Plan, list[Step]]) -> None:
    store, _, steps = built
    path, told = store.folder(steps[0]) / MANIFEST, store.manifest(steps[0])
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert store.manifest(steps[0]) in (None, told)  # a space may have become another
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert store.manifest(steps[0]) is None


@pytest.mark.parametrize("lacking", [("digest",), ("files", "digest")])
def test_a_build_that_nothing_can_be_compared_with_is_none(
    built: tuple[Store, Plan, list[Step]], lacking: tuple[str, ...]
) -> None:
    store, made, steps = built
    told = dict(store.manifest(steps[-1]) or {})
    write_json(store.folder(steps[-1]) / MANIFEST, {k: v for k, v in told.items() if k not in lacking})
    assert not store.is_whole(steps[-1])
    assert standing(made, store)[1]


def test_an_evicted_build_is_made_again_only_for_who_reads_it(built: tuple[Store, Plan, list[Step]]) -> None:
    store, made, steps = built
    everything = {s.key for s in steps}
    for each in steps[:3]:
        store.evict(store.folder(each))
        assert [p.name for p in store.folder(each).iterdir()] == [MANIFEST]
    assert standing(made, store) == (everything, {})
    assert store.manifest(steps[2])
    store.remove(store.folder(steps[3]))
    assert standing(made, store) == (set(), {})
    store.build(steps[2], lambda out: work(2, out), {})
    assert standing(made, store) == ({s.key for s in steps[:3]}, {})


# --------------------------------------------------------------------------------------------------- clocks that jump


def test_a_clock_that_jumps_while_things_are_built_changes_nothing_of_them(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back and forth by years: durations are measured on another clock, and no date decides what stands."""
    jumps, real = itertools.cycle((-400 * DAY_S, 0.0, 4000 * DAY_S, -0.5)), time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    building_main(str(tmp_path / "store"), str(tmp_path / "run"), *NUMBERS)
    assert held(tmp_path) == undisturbed
    store = Store(tmp_path / "store")
    told = [store.manifest(step(int(n))) for n in NUMBERS]
    assert all(t and 0 <= t["seconds"] < DAY_S for t in told)
    assert len({t["created_unix"] // (100 * DAY_S) for t in told if t}) > 1, "no clock jumped"
    before = [b.stat().st_mtime_ns for b in store.builds()]
    building_main(str(tmp_path / "store"), str(tmp_path / "run"), *NUMBERS)
    assert [b.stat().st_mtime_ns for b in store.builds()] == before, "something was built again"


# -------------------------------------------------------------------------------------------------------- full disks


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, whose size `resize` changes."""
    try:
        with small_disk(tmp_path) as disk:
            yield disk
    except PermissionError as error:
        pytest.skip(str(error))


def test_a_disk_that_fills_at_any_write_leaves_all_whole(small: Path) -> None:
    """At each size one page larger the disk fills at another write, until all fits."""
    store, run, wanted = Store(small / "store"), small / "run", step(4)
    rows = records_of(run)
    refused: list[str] = []
    for pages in range(1, 400):
        resize(small, f"{4 * pages}k")
        try:
            store.build(wanted, lambda out: work(4, out), {})
            rows()
            break
        except (OSError, UserError) as error:
            refused.append(str(error))
        assert not store.folder(wanted).exists() or store.is_whole(wanted, thorough=True)
        assert not list((store.root / "tmp").glob("*/*"))
        if (run / "records").exists():
            assert len(ledger.read_records(run)) <= 1
    assert len(refused) > 40
    assert all("No space left" in r for r in refused)
    assert store.is_whole(wanted, thorough=True)
    assert len(ledger.read_records(run)) == 1
    assert not list(run.rglob(".*"))


def test_a_disk_that_may_only_be_read_is_told(small: Path) -> None:
    """As root too, whom no permission keeps out."""
    resize(small, "400k")
    store, run = Store(small / "store"), small / "run"
    store.build(step(4), lambda out: work(4, out), {})
    ledger.write_cells(run, ["a"])
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(UserError, match=r"cannot be written .*Read-only file system.; set store=DIR"):
        store.prepare()
    with pytest.raises(UserError, match=r"cannot be written .Read-only file system."):
        ledger.write_cells(run, ["b"])
    store.touch(step(4))
    assert store.is_whole(step(4), thorough=True)
    assert ledger.read_cells(run) == ["a"]


def records_of(run: Path):  # type: ignore[no-untyped-def]
    from tests import records

    made = records.rows("lora", "int8", 40)
    one = records.record("lora", "int8", made)

    def write() -> None:
        ledger.write_rows(run, one, made)
        ledger.write_record(run, one)

    return write
