"""`python -m harness.store`: what is old goes, what is needed stays, and what is not the store's is never touched."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from errno import EACCES
from pathlib import Path

import pytest

from harness.grid import _expected
from harness.plan import Plan
from harness.store import MANIFEST, Store, faults, read_manifest, sealed, write_json
from harness.store.__main__ import DAY_S, main
from harness.store.upkeep import builds, collect, occupied_bytes, shrink
from harness.types import Step, StepKind
from tests.building import step, work

BASE, ADAPT, QUANTIZE = StepKind.BASE, StepKind.ADAPT, StepKind.QUANTIZE


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Five builds, each used a day later than the one before; the last one now."""
    made = Store(tmp_path / "store")
    for number in range(5):
        made.build(step(number), lambda out, n=number: work(n, out), {})  # type: ignore[misc]
        age(made, number, 4 - number)
    return made


def age(store: Store, number: int, days: float) -> None:
    then = time.time() - days * DAY_S
    os.utime(store.folder(step(number)) / MANIFEST, (then, then))


def names(store: Store) -> set[str]:
    return {b.folder.name for b in builds(store)}


def keys(*numbers: int) -> set[str]:
    return {step(n).key for n in numbers}


def test_gc_takes_what_is_old_and_not_needed(store: Store) -> None:
    with store.hold(keys(0)):
        gone = collect(store, 2.5 * DAY_S)
    assert {b.folder.name for b in gone} == keys(1)
    assert names(store) == keys(0, 2, 3, 4)
    assert {b.folder.name for b in collect(store, 2.5 * DAY_S)} == keys(0)


def test_a_build_at_work_is_not_taken(store: Store) -> None:
    from filelock import FileLock

    with FileLock(store.folder(step(0)).with_suffix(".lock")):
        assert {b.folder.name for b in collect(store, 2.5 * DAY_S)} == keys(1)


def test_a_clock_that_jumped_takes_nothing_young(store: Store) -> None:
    age(store, 0, -400)
    assert {b.folder.name for b in collect(store, 0.5 * DAY_S)} == keys(1, 2, 3)


def test_the_limit_evicts_the_longest_unused_that_can_be_rebuilt(store: Store) -> None:
    """Steps 0, 1, 2 are builds, 3 and 4 measurements, which stay whatever the limit."""
    sizes = [occupied_bytes([store.folder(step(n))]) for n in range(5)]
    assert shrink(store, sum(sizes)) == []
    age(store, 0, 0.5)
    with store.hold(keys(1)):
        assert [b.folder.name for b in shrink(store, sum(sizes) - 1)] == [step(2).key]
        assert {b.folder.name for b in shrink(store, 1)} == keys(0)
    assert {b.folder.name for b in shrink(store, 1)} == keys(1)
    assert shrink(store, 1) == []
    assert [store.is_whole(step(n), thorough=True) for n in range(5)] == [False, False, False, True, True]
    assert all(store.manifest(step(n)) for n in range(5))


@pytest.fixture
def family(tmp_path: Path) -> tuple[Store, dict[str, Step]]:
    """A base model, its weights once more in what was prompted and in that again, and what was trained and rounded;
    each used a day later than the one before, as by grids of other suites."""
    made = Store(tmp_path / "store")
    linked = ("prompted", "unrounded")
    parents = {"base": "", "prompted": "base", "unrounded": "prompted", "trained": "base", "rounded": "trained"}
    kinds = {"base": BASE, "prompted": ADAPT, "trained": ADAPT, "unrounded": QUANTIZE, "rounded": QUANTIZE}
    steps: dict[str, Step] = {}
    for number, (name, parent) in enumerate(parents.items()):
        above = {"model" if kinds[name] == QUANTIZE else "base": steps[parent].key} if parent else {}
        steps[name] = replace(step(number, kinds[name]), title=name, preimage=above)

        def build(out: Path, name: str = name, parent: str = parent) -> dict[str, str]:
            if name in linked:
                os.link(made.folder(steps[parent]) / "model.safetensors", out / "model.safetensors")
            else:
                (out / "model.safetensors").write_bytes(name.encode() * 100_000)
            return {}

        made.build(steps[name], build, {})
        then = time.time() - (5 - number) * DAY_S
        os.utime(made.folder(steps[name]) / MANIFEST, (then, then))
    return made, steps


def test_what_others_were_made_from_goes_after_them(family: tuple[Store, dict[str, Step]]) -> None:
    store, steps = family
    whole = occupied_bytes([store.root])
    with store.hold([steps[name].key for name in ("base", "prompted")]):
        assert [b.title for b in shrink(store, whole - 1_000_000)] == ["rounded", "trained"], "links would free nothing"
    assert [b.title for b in shrink(store, 1)] == ["unrounded", "prompted", "base"]
    assert shrink(store, 1) == []


def test_no_more_goes_than_has_to(family: tuple[Store, dict[str, Step]]) -> None:
    """What is longest unused is but links to the base model, which others are made from that were used just now."""
    store, _ = family
    assert [b.title for b in shrink(store, occupied_bytes(b.folder for b in builds(store)) - 1)] == ["rounded"]
    assert [b.title for b in shrink(store, 500_000)] == ["trained"]


@pytest.mark.parametrize(
    ("read", "error", "code", "told"),
    [("sha256", KeyboardInterrupt(), 130, "stopped"),
     ("sha256", PermissionError(EACCES, "no right", "x"), 2, "x: may not be read (no right)\n"),
     ("parse", PermissionError(EACCES, "no right", "x"), 2, "x: may not be read (no right)\n")],
)  # fmt: skip
def test_what_could_not_be_verified_is_not_broken(
    read: str, error: BaseException, code: int, told: str,
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As where it is another user's."""

    def ended(*_: object) -> str:
        raise error

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(f"harness.store.{read}", ended)
    assert main(["verify", "--store", str(store.root)]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(f"harness: {told}")
    assert captured.out == ("" if code == 130 else "5 builds: 0 broken; 5 not readable\n")
    if read == "parse":
        assert shrink(store, 1) == [], "a grid beside them goes on"
        assert _expected(store, Plan((), {}, {}, {})) == {}
        assert main(["ls", "--store", str(store.root)]) == 0
        assert capsys.readouterr().out.count("not readable") == 5


def test_what_may_not_be_read_hides_nothing_that_is_broken(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found before it or after."""
    for number in (0, 4):
        (store.folder(step(number)) / "b.json").unlink()

    def read(folder: Path, thorough: bool) -> list[str]:
        if folder == store.folder(step(2)):
            raise PermissionError(EACCES, "no right", str(folder / MANIFEST))
        return faults(folder, thorough)

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("harness.store.__main__.faults", read)
    assert main(["verify", "--store", str(store.root)]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("b.json: No such file") == 2
    assert captured.out.endswith("5 builds: 2 broken; a grid that needs them builds them anew; 1 not readable\n")
    assert captured.err == f"harness: {store.folder(step(2)) / MANIFEST}: may not be read (no right)\n"


def test_an_eviction_that_was_killed_is_ended_by_the_next(store: Store) -> None:
    """Its note is written and some of its files are still there; when the build was evicted first stays noted."""
    folder = store.folder(step(0))
    first = read_manifest(folder)
    write_json(folder / MANIFEST, sealed({**first, "evicted_unix": 7}))
    assert {b.folder.name for b in shrink(store, 1)} == keys(0, 1, 2)
    assert [p.name for p in folder.iterdir()] == [MANIFEST]
    assert read_manifest(folder)["evicted_unix"] == 7
    assert shrink(store, 1) == []


def test_what_goes_while_it_is_verified_is_not_broken(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process takes one build away, and evicts another."""
    gone, evicted = (store.folder(step(n)) for n in (0, 1))

    def meanwhile(folder: Path, thorough: bool) -> list[str]:
        if folder in (gone, evicted) and (folder / "b.json").exists():
            (store.remove if folder == gone else store.evict)(folder)
            return ["b.json: No such file or directory"]
        return faults(folder, thorough)

    monkeypatch.setattr("harness.store.__main__.faults", meanwhile)
    assert main(["verify", "--store", str(store.root)]) == 0
    assert capsys.readouterr().out == "4 builds: 0 broken\n"


def test_titles_are_shown_as_they_are(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """In rich's markup an end without its beginning is an error, and a style vanishes."""
    odd = replace(step(0), title="[/x] [int4, int8]")
    store.remove(store.folder(odd))
    store.build(odd, lambda out: work(0, out), {})
    (store.folder(odd) / "b.json").unlink()
    for command in (["ls"], ["verify"], ["gc", "--keep-days", "0"]):
        main([*command, "--store", str(store.root)])
        assert odd.title in capsys.readouterr().out


def test_a_store_that_may_only_be_read_is_looked_at(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (store.root / "upkeep.lock").mkdir()  # which no right of root's can lock
    before = store.root.stat().st_mtime_ns
    for command in ("ls", "verify", "du"):
        assert main([command, "--store", str(store.root)]) == 0
    assert store.folder(step(0)).name in capsys.readouterr().out
    assert store.root.stat().st_mtime_ns == before


def test_files_under_two_names_count_once(store: Store) -> None:
    one, two = store.folder(step(0)), store.folder(step(1))
    before = occupied_bytes([one, two])
    os.link(one / "a.safetensors", two / "linked.safetensors")
    assert occupied_bytes([one, two]) == before
    assert occupied_bytes([two]) > before - occupied_bytes([one])


def test_strangers_are_left_alone(store: Store, tmp_path: Path) -> None:
    """Whatever else stands in the store, and links out of it: a name and a place make a build, nothing else."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / MANIFEST).write_text("mine")
    (store.root / "adapt" / "0123456789abcdef").symlink_to(outside)
    for name in ("adapt/my notes", "adapt/0123456789ABCDEF", "photos/0123456789abcdef", "tmp/mine", "adapt/..x"):
        (store.root / name).mkdir(parents=True)
        (store.root / name / "file").write_text("mine")
    strangers = sorted(p for p in store.root.rglob("file"))
    collect(store, 0)
    shrink(store, 1)
    assert sorted(p for p in store.root.rglob("file")) == strangers
    assert (outside / MANIFEST).read_text() == "mine"
    assert (store.root / "adapt" / "0123456789abcdef").is_symlink()


def test_titles_of_others_are_shown_as_they_are(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    place = store.folder(step(0)) / MANIFEST
    told = {**read_manifest(place.parent), "title": "\x1b[31mred [/b]"}
    write_json(place, sealed(told))
    (store.folder(step(0)) / "a.safetensors").unlink()
    for command in ("ls", "verify", "gc --keep-days 0"):
        main([*command.split(), "--store", str(store.root)])
        out = capsys.readouterr().out
        assert "⟨U+001B⟩[31mred [/b]" in out
        assert "\x1b" not in out


def test_the_command_line(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> tuple[int, str]:
        code = main([*arguments, "--store", str(store.root)])
        found = capsys.readouterr()
        return code, found.out + found.err

    assert told("verify") == (0, "5 builds: 0 broken\n")
    code, text = told("ls")
    assert code == 0
    assert all(step(n).key in text for n in range(5))
    assert told("du")[0] == 0
    broken = store.folder(step(0)) / "a.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    (store.folder(step(1)) / MANIFEST).write_text("{")
    code, text = told("verify")
    assert code == 1
    assert "5 builds: 2 broken" in text
    assert "a.safetensors" in text
    assert "broken" in told("ls")[1]
    code, text = told("gc", "--keep-days", "0.5")
    assert (code, names(store)) == (0, keys(1, 4)), "a manifest written just now was used just now"
    assert "3 builds taken away" in text
    assert "argument --keep-days: 'x': give days, 0 or more\n" in told("gc", "--keep-days", "x")[1]
    for wrong in (["gc"], ["gc", "--keep-days", "-1"], ["gc", "--keep-days", "nan"], ["eat"], []):
        assert told(*wrong)[0] == 2
    assert main(["du", "--store", str(tmp_path)]) == 2
    assert "not a store" in capsys.readouterr().err
    assert not (tmp_path / "running").exists(), "a folder that is no store was written to"
