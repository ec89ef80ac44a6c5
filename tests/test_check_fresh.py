"""The release gate from end to end: a tiny random model as baseline, and its own weights as a fresh checkpoint."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from harness.adapt.as_is import AsIs
from harness.check import fresh, rules, subject
from harness.check.__main__ import main as gate
from harness.check.judge import refuse_other_suites
from harness.errors import UserError
from harness.escaping import config_value
from harness.measure.quality import faults, in_part
from harness.prompt import RECIPE, Recipe, load_prompter
from harness.statistics import place
from harness.types import Context
from tests import gates
from tests.cells import suite_data
from tests.grids import TINY, builds, harness, python, run_folder


def check(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(cwd, "-m", "harness.check", *arguments)


def test_a_fresh_checkpoint_is_judged_whole_and_in_parts(tmp_path: Path) -> None:
    grid = harness(tmp_path, *TINY, "quantization=fp16", "suite=support_tone")
    run = run_folder(grid)
    saved = check(tmp_path, str(run), "--save-baseline", "baselines/tiny.json")
    assert saved.returncode == 0, saved.stderr
    record = json.loads(next((run / "records").iterdir()).read_text())
    model = tmp_path / ".harness/store/quantize" / record["steps"]["quantize"]["key"]
    asked = ("--model", str(model), "--baseline", "baselines/tiny.json", "--rules", "answers_only", "adaptation=as_is")
    whole = check(tmp_path, *asked, "--out", "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    found = json.loads((tmp_path / "whole/check.json").read_text())
    assert {f["verdict"] for f in found["findings"] if f["trial"]["by_rows"]} == {"pass"}
    before = {b for b in builds(tmp_path) if not b.startswith("quality/")}
    parts = check(tmp_path, *asked, "--budget", "--set", "budget.looks=2", "--out", "parts")
    assert parts.returncode == 0, parts.stdout + parts.stderr
    found = json.loads((tmp_path / "parts/check.json").read_text())
    assert found["findings"][0]["trial"]["pair"]["n"] == 6
    assert {b for b in builds(tmp_path) if not b.startswith("quality/")} == before, "parts share all but the answers"
    contents = [subject.read(cell).cells[0].content for cell in tmp_path.glob("outputs/check/**/cell-1")]
    assert (len(contents) > 1, len({*contents, ""})) == (True, 2), "each is of the checkpoint's files"
    side = subject.read(run)
    refuse_other_suites([(fresh._asked(side.cells)[0], side.cells[0])])
    edited = replace(side.cells[0], rows=(replace(side.cells[0].rows[0], example="e"), *side.cells[0].rows[1:]))
    with pytest.raises(UserError, match="1 evaluation rows changed since the baseline"):
        fresh.evaluate("x", subject.Side("run", (edited,)), [], tmp_path / "none")


def test_a_suite_is_read_once_for_all_cells_and_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, load = gates.rows(), Mock(return_value=suite_data())
    (cell,) = subject.read(gates.run(tmp_path / "run", (gates.cell(made), made))).cells
    monkeypatch.setattr(fresh, "load_suite", load)
    monkeypatch.setattr(fresh, "refuse_other_suites", lambda both: None)
    monkeypatch.setattr(fresh, "grid", lambda arguments, run, cell: gates.run(run, (gates.cell(made), made)))
    side = subject.Side("base", (cell, replace(cell, id="other")))
    for part in ((0.0, 0.5), (0.5, 1.0)):
        assert len(fresh.evaluate("x", side, [], tmp_path / str(part), part).cells) == 2
    assert load.call_count == 1


@pytest.mark.parametrize("changed", [{"content": "b"}, {"scoring": "e"}])
def test_parts_and_cells_of_two_checkpoints_are_no_candidate(tmp_path: Path, changed: dict[str, Any]) -> None:
    """A training may write the folder anew between two looks, and a suite may be edited."""
    made = gates.rows()
    side = subject.read(gates.run(tmp_path / "run", (gates.cell(made), made)))
    first = replace(side.cells[0], content="a")

    def measure(part: Any, look: int) -> subject.Side:
        cell = replace(first, rows=tuple(fresh._rows(first, *part)))
        return subject.Side("./ckpt", (replace(cell, **changed) if look > 1 else cell,))

    with pytest.raises(UserError, match=r"^\./ckpt: it, or its suite, changed while it was judged; run again"):
        fresh.within_budget(side, rules.load("default"), 200, measure)
    two = [first, replace(first, id="other", content="b"), replace(first, id="failed", content="")]
    with pytest.raises(UserError, match="changed while it was judged"):
        fresh._refuse_changed("./ckpt", two)
    fresh._refuse_changed("./ckpt", [first, replace(first, id="other", scoring="e"), two[2]])


def test_two_gates_of_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders: list[Path] = []

    def evaluate(model: str, baseline: Any, own: Any, out: Path) -> Any:
        folders.append(out)
        if len(folders) < 3:
            (out / "cell-1").mkdir()
        raise UserError("stopped here")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fresh, "evaluate", evaluate)
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    made = gates.rows()
    gates.run(tmp_path / "run", (gates.cell(made), made))
    assert [gate(["--model", ".", "--baseline", "run"]) for _ in range(2)] == [2, 2]
    assert [f.name for f in folders] == ["now", "now-2"]
    assert gate(["--model", ".", "--baseline", "run", "outputs='else where'"]) == 2
    assert folders[-1] == Path("else where/check/now")
    assert not folders[-1].exists(), "empty"
    capsys.readouterr()
    assert gate(["--model", ".", "--baseline", "run", "outputs=~/runs"]) == 2
    assert 'is a folder called ~ here; write "outputs=$HOME/runs"' in capsys.readouterr().err
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("code", "error"),
    [(0, None), (1, None), (2, UserError), (70, SystemExit), (-9, SystemExit), (130, KeyboardInterrupt)],
)
def test_a_grid_that_did_not_run_to_its_end_is_no_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[BaseException] | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A failed cell is a record like any other; what a fault of ours left may be some records of all."""
    stands_in(tmp_path / "python", f"kill -9 $$; exit {code}" if code < 0 else f"exit {code}", monkeypatch)
    told = f"the grid of m/lora/int8/s did not run (exit {code}, told above)"
    match = {UserError: f"^{re.escape(told)}$", SystemExit: "^70$"}.get(error) if error else None
    with pytest.raises(error, match=match) if error else nullcontext():
        fresh.grid([], tmp_path, "m/lora/int8/s")
    assert capsys.readouterr().err == (f"harness: {told}\n" if error is SystemExit else "")


def stands_in(path: Path, does: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this shell script run where a grid would."""
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize(
    ("stop", "ends"), [(SystemExit(143), "exit 130"), (KeyboardInterrupt(), "exit 130"), (SystemExit(143), "")]
)
def test_a_grid_ends_with_its_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException, ends: str
) -> None:
    """It is told to once, by SIGINT, as a terminal does at Ctrl-C, and killed where that does not end it."""
    pid = tmp_path / "pid"

    def stopped(*_: Any) -> None:
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.01)
        if isinstance(stop, KeyboardInterrupt):
            os.kill(int(pid.read_text()), signal.SIGINT)
        raise stop

    grid = f'trap "echo told >> {tmp_path}/told; sleep 0.3; {ends}" INT; echo $$ > {pid}; while :; do sleep 0.02; done'
    stands_in(tmp_path / "python", grid, monkeypatch)
    monkeypatch.setattr(fresh, "GRACE_S", 20 if ends else 0.2)
    earlier = signal.signal(signal.SIGALRM, stopped)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(type(stop)):
            fresh.grid([], tmp_path, "m/lora/int8/s")
    finally:
        signal.signal(signal.SIGALRM, earlier)
    assert not ends or (tmp_path / "told").read_text() == "told\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_sigterm_is_an_end_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["harness.check"])
    monkeypatch.delitem(sys.modules, "harness.check.__main__", raising=False)
    earlier = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match=r"^2$"):
            runpy.run_module("harness.check", run_name="__main__")
        with pytest.raises(SystemExit, match=r"^143$"):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_parts_hold_each_row_once_and_groups_whole() -> None:
    rows = [{"id": f"r{i}", "group": f"g{i // 3}"} for i in range(300)]
    edges = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = [in_part(rows, [low, high]) for low, high in pairwise(edges)]
    assert sorted(at for part in parts for at in part) == list(range(300))
    assert all(50 <= len(part) <= 100 for part in parts)
    for part in parts:
        assert all({at - at % 3, at - at % 3 + 1, at - at % 3 + 2} <= set(part) for at in part)
    assert place({"id": "a"}) == place({"id": "a", "group": None}) != place({"id": "b"})


@pytest.mark.parametrize(
    "value",
    ["a\\b", "ends in \\", "it's \\' so", "${company} and \\${x}", "a,b=[c]", "", None, True, 0.1, 3, ["a", "1"],
     [{"k": 1, "n": None}], {"a": ["${x}", False]}],
)  # fmt: skip
def test_a_value_survives_the_command_line(value: Any) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"k={config_value(value)}"])
    assert OmegaConf.to_container(OmegaConf.create({"k": override.value()}), resolve=True) == {"k": value}


@pytest.mark.parametrize("part", ["half", [0.5], [0.5, 0.5], [0.0, 1.5], [True, 1], [0.0, None], 0.5])
def test_a_part_that_is_none_is_told(part: Any) -> None:
    assert len(faults({"part": part})) == 1
    assert not faults({"part": None})
    assert not faults({"part": [0.0, 0.5]})
    assert not faults({})


def test_as_is_keeps_a_recipe_or_takes_the_suites(tmp_path: Path) -> None:
    context = Context("cpu", "float32", 0, lambda share, text: None)
    plain, kept = tmp_path / "plain", tmp_path / "kept"
    for folder in (plain, kept, tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
    (plain / "config.json").write_text("{}")
    Recipe("Be kind.", (), (), "none", 1).save(kept)
    data = suite_data(system="You answer.", instructions="A long guide.")
    assert AsIs()(plain, data, tmp_path / "one", context)["recipe"] == "the suite's"
    assert load_prompter(tmp_path / "one").recipe.system == "You answer."
    assert AsIs()(kept, data, tmp_path / "two", context)["recipe"] == "kept"
    assert (tmp_path / "two" / RECIPE).read_text() == (kept / RECIPE).read_text()
