"""What a step reads when it runs is what its key was made from when the grid was planned, or it does not run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest

from harness import execute
from harness.environment import detect
from harness.errors import BrokenArtifact
from harness.plan import chain
from harness.store import Store
from harness.suite import load, suite_folder
from harness.types import WAITS, Step, StepKind
from tests.cells import cell
from tests.test_models import tensors

KERNELS, BASE, ADAPT, QUANTIZE, QUALITY, LATENCY = StepKind
TRAINED, ASKED = {ADAPT, QUANTIZE}, {QUALITY, LATENCY}


@pytest.fixture
def planned(tmp_path: Path) -> tuple[Path, dict[StepKind, Step]]:
    """A suite of its own, and the steps of a cell of it."""
    one = cell("suite=support_tone", f"suite.folder={tmp_path / 'suite'}", "adaptation=lora")
    shutil.copytree(suite_folder(cell("suite=support_tone").suite.params), tmp_path / "suite")
    steps = chain(one, load(one.suite), detect(), None)
    return tmp_path / "suite", {step.kind: step for step in steps}


def first_row(name: str, field: str) -> Callable[[Path], object]:
    """An edit of the first row of a file: a word more."""

    def edit(folder: Path) -> None:
        first, *rest = (folder / name).read_text(encoding="utf-8").splitlines()
        row = json.loads(first)
        row[field] += " again"
        (folder / name).write_text("\n".join([json.dumps(row), *rest]), encoding="utf-8")

    return edit


def test_a_step_that_waits_for_others_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(execute, "PATIENCE_S", 0.0)
    one = cell("model=dummy_tiny")
    step = chain(one, load(one.suite), detect(), None)[0]
    said: Queue[tuple[float, str]] = Queue()
    work = partial(execute.carry_out, step, [], Store(tmp_path), lambda *told: said.put(told), 1)
    with execute.machine(alone=True):
        thread = Thread(target=work)
        thread.start()
        assert said.get(timeout=60) == (0.0, WAITS)
    thread.join(timeout=60)
    assert said.get(timeout=60) == (0.0, "")


@pytest.mark.parametrize(
    ("edit", "refused"),
    [
        (lambda folder: None, set()),
        (lambda folder: (folder / "card.md").write_text("Other words."), set()),
        (lambda folder: (folder / "style_guide.md").write_text("Greet."), set()),
        (lambda folder: (folder / "own.py").write_text("one = 1"), {QUALITY}),
        (first_row("train.jsonl", "reply"), TRAINED),
        (first_row("eval.jsonl", "message"), ASKED),
    ],
)
def test_a_suite_that_was_edited_since_is_not_stored_under_its_old_key(
    planned: tuple[Path, dict[StepKind, Step]], edit: Any, refused: set[StepKind]
) -> None:
    folder, steps = planned
    edit(folder)
    for kind in refused:
        with pytest.raises(BrokenArtifact, match="suite support_tone changed since this grid was planned; run again"):
            execute._data(steps[kind])
    for kind in {ADAPT, QUANTIZE, QUALITY, LATENCY} - refused:
        assert execute._data(steps[kind]).name == "support_tone"


def test_instructions_that_were_edited_since_are_told_by_no_old_key(planned: tuple[Path, dict[StepKind, Step]]) -> None:
    adapt = planned[1][ADAPT]
    guided = replace(adapt, preimage={**adapt.preimage, "instructions": "of before"})
    with pytest.raises(BrokenArtifact, match="suite support_tone changed"):
        execute._data(guided)


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_model_that_was_edited_since_is_not_stored_under_its_old_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    from harness.models import hub

    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (model / name).write_text("{}")
    weights = model / "model.safetensors"
    weights.write_bytes(tensors("one"))
    one = cell("model=hf", f"model.id={model}")
    step = chain(one, load(one.suite), detect(), hub.HubModel(str(model)).fingerprint())[0]
    copied = hub.copy_tree

    def edited(source: Path, out: Path) -> None:
        copied(source, out)
        weights.write_bytes(tensors("two"))

    if when == "while":
        monkeypatch.setattr(hub, "copy_tree", edited)
    else:
        weights.write_bytes(tensors("two"))
    store = Store(tmp_path / "store")
    with pytest.raises(BrokenArtifact, match="the model hf changed since this grid was planned; run again"):
        execute.carry_out(step, [], store, lambda *_: None, 1)
    assert store.manifest(step) is None
    monkeypatch.setattr(hub, "copy_tree", copied)
    weights.write_bytes(tensors("one"))
    execute.carry_out(step, [], store, lambda *_: None, 1)
    assert store.is_whole(step)
