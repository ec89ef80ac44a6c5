"""What only a GPU shows: kernels, captured steps, and whether the same work gives the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.engine.eager import Eager, EagerSession
from harness.engine.graph import Graph, GraphSession
from harness.engine.slots import DecoderSlots
from harness.loading import load
from harness.types import Context
from tests.grids import ROOT
from tests.test_engine import PROMPTS
from tests.test_graph import MODELS, longer, saved

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = Context("cuda", "float32", 0, lambda fraction, note: None)


def test_kernels_agree_with_pytorch() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.kernels_check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "kernels agree", done.stderr


@pytest.mark.parametrize("name", MODELS)
def test_captured_or_not_the_tokens_are_the_eager_engines(tmp_path: Path, name: str) -> None:
    """In float32, every row."""
    folder = saved(tmp_path, *MODELS[name])
    eager = EagerSession(Eager(batch_size=1, min_prefix=0), load(folder, CUDA), CUDA)
    told = [eager.generate([p], 60)[0] for p in longer()]
    for capture in (True, False):
        session = Graph(batch_size=4, capture=capture).start(folder, CUDA)
        assert isinstance(session, GraphSession)
        assert session.captured is capture
        for _ in range(3):  # the second use of a shape is captured, the third replayed
            assert session.generate(longer(), 60) == told


def test_the_same_work_gives_the_same_bits(tmp_path: Path) -> None:
    model = load(saved(tmp_path, *MODELS["llama"]), Context("cuda", "float16", 0, CUDA.progress)).model
    slots = DecoderSlots(model, 32, 256, capture=True)
    ids = [[10 + n, *range(20, 40)] for n in range(32)]
    runs = []
    for _ in range(20):
        made = [slots.admit(ids, range(32))()] + [slots.step(range(32))() for _ in range(100)]
        runs.append(made)
    assert all(run == runs[0] for run in runs)


def test_times_are_those_of_the_device(tmp_path: Path) -> None:
    session = Graph().start(saved(tmp_path, *MODELS["llama"]), CUDA)
    times = session.time_tokens(PROMPTS[0], 9)
    assert times == sorted(times)
    assert times[0] > 0
