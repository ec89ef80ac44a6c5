"""What only a GPU shows: kernels, captured steps, and whether the same work gives the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engine import ops
from harness.engine.eager import Eager, EagerSession
from harness.engine.graph import Graph, GraphSession
from harness.engine.slots import DecoderSlots
from harness.loading import load
from harness.types import Context
from tests.grids import ROOT
from tests.test_engine import PROMPTS
from tests.test_graph import MODELS, WHOLE, longer, saved

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
    asked = [[f"{beginning}{p}" for p in longer()] for beginning in ("", "abcde " * 9, "bcdea " * 9)]
    told = [[eager.generate([p], 60)[0] for p in prompts] for prompts in asked]
    for capture in (True, False):
        session = Graph(batch_size=4, capture=capture).start(folder, CUDA)
        assert isinstance(session, GraphSession)
        assert session.captured is capture
        for _ in range(3):  # the second use of a shape is captured, the third replayed
            assert [session.generate(prompts, 60) for prompts in asked] == told


@pytest.mark.parametrize("name", WHOLE)
def test_captured_or_not_other_layers_give_the_tokens_of_the_eager_engine(tmp_path: Path, name: str) -> None:
    """In float32, every row."""
    folder = saved(tmp_path, *WHOLE[name])
    eager = EagerSession(Eager(batch_size=1, min_prefix=0), load(folder, CUDA), CUDA)
    asked = [longer(), [f"abcde abcde {p}" for p in longer()]]
    told = [[eager.generate([p], 30)[0] for p in prompts] for prompts in asked]
    batched = Eager(batch_size=4).over(eager.loaded, CUDA)
    assert [batched.generate(prompts, 30) for prompts in asked] == told
    for capture in (True, False):
        session = Graph(batch_size=4, capture=capture).start(folder, CUDA)
        assert isinstance(session, GraphSession), session.loaded.proof["how"]
        asks = "asks the host" in session.loaded.proof["how"]  # some releases of transformers do, for these
        assert session.captured is (capture and not asks)
        assert not asks or name in ("experts", "sinks, experts", "turned by length", "keys shared by layers")
        for _ in range(3):
            assert [session.generate(prompts, 30) for prompts in asked] == told


def test_captured_or_not_answers_end_at_a_stop_text(tmp_path: Path) -> None:
    """Although the step after is launched before a token is looked at."""
    folder = saved(tmp_path, *MODELS["llama"])
    whole = Graph(batch_size=4).start(folder, CUDA).generate(longer(), 60)
    end = whole[0].text[9:11]
    told = EagerSession(Eager(batch_size=1, min_prefix=0), load(folder, CUDA), CUDA).generate(longer(), 60, ends=[end])
    assert told != whole
    for capture in (True, False):
        session = Graph(batch_size=4, capture=capture).start(folder, CUDA)
        assert isinstance(session, GraphSession)
        for _ in range(3):
            assert session.generate(longer(), 60, ends=[end]) == told
            served = session.serve(longer(), 60, 4, natural=True, ends=[end])
            assert [s.finished for s in served] == [c.finished for c in told]


@pytest.mark.parametrize("knobs", [{"temperature": 0.8}, {"temperature": 1.5, "top_p": 0.9}])
def test_captured_or_not_the_drawn_tokens_are_the_eager_engines(tmp_path: Path, knobs: dict[str, Any]) -> None:
    folder = saved(tmp_path, *MODELS["llama"])
    prompts = [*longer(), *PROMPTS]
    told = EagerSession(Eager(batch_size=1, min_prefix=0, **knobs), load(folder, CUDA), CUDA).generate(prompts, 60)
    for capture in (True, False):
        session = Graph(batch_size=4, capture=capture, **knobs).start(folder, CUDA)
        assert isinstance(session, GraphSession)
        for _ in range(3):  # the second use of a shape is captured, the third replayed
            assert session.generate(prompts, 60) == told


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("rows", [1, 8, 32])
def test_the_same_work_gives_the_same_bits(tmp_path: Path, rows: int, capture: bool) -> None:
    """In 16 bits too, and whatever stood in the slots before: garbage there would show whether it is read."""
    model = load(saved(tmp_path, *MODELS["llama"]), Context("cuda", "float16", 0, CUDA.progress)).model
    slots = DecoderSlots(model, rows, 256, capture=capture)
    ids = [[10 + n, *range(20, 40)] for n in range(rows)]
    runs = []
    for garbage in (0.0, 0.0, 1e3, float("nan"), 0.0, 0.0):
        for kept in (t for cache in slots.decoder.cache for t in cache):
            kept.fill_(garbage)
        runs.append([slots.admit(ids, range(rows), range(rows))(), *(slots.step(range(rows))() for _ in range(200))])
    assert [run == runs[0] for run in runs] == [True] * len(runs)


@pytest.mark.parametrize("rows", [8, 32])
def test_each_part_of_a_step_gives_the_same_bits(rows: int) -> None:
    """A hundred times at the sizes of a 1.1B Llama: products, attention, norms, and argmax where logits tie."""
    made = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made, device="cuda", dtype=torch.float16)

    x, wide = normal(rows, 2048), normal(rows, 5632)
    cache = normal(33, 4, 512, 64), normal(33, 4, 512, 64)
    at, slot = torch.randint(100, 400, (rows,), device="cuda"), torch.randperm(32, device="cuda")[:rows]
    query, prompts, ties = normal(rows, 32, 64), normal(rows, 40, 32, 64), normal(rows, 32000).round()
    parts: dict[str, Callable[[], Any]] = {
        **{f"{n} by 2048": partial(torch.nn.functional.linear, x, normal(n, 2048)) for n in (2048, 3072, 11264, 32000)},
        "2048 by 5632": partial(torch.nn.functional.linear, wide, normal(2048, 5632)),
        "attention": lambda: ops.attend(query[:, None], cache, slot, at[:, None], 0.125),
        "attention of prompts": lambda: ops.attend(prompts, cache, slot, at[:, None] + torch.arange(40).cuda(), 0.125),
        "norm": lambda: ops.add_rms_norm(x, x, x[0], 1e-5)[0],
        "argmax": lambda: ties.argmax(dim=-1),
    }
    other = []
    for name, part in parts.items():
        first = part()
        other += [name] * any(not torch.equal(first, part()) for _ in range(100))
    assert other == []


@pytest.mark.parametrize("rows", [1, 16, 17, 33, 40])
@pytest.mark.parametrize(("size", "columns"), [(1536, 576), (576, 1536), (64, 64), (72, 88)])
def test_torchao_multiplies_unprinted_as_it_would(rows: int, size: int, columns: int) -> None:
    from torchao.kernel import intmm

    from harness.quantize.int8_kernels import int8_product, multiply_unprinted, whole_on_gpu

    made = torch.Generator().manual_seed(rows)
    a, b = (torch.randint(-128, 128, s, generator=made, dtype=torch.int8) for s in ((rows, size), (columns, size)))
    told = a.to(torch.int32) @ b.t().to(torch.int32)
    multiply_unprinted()
    assert whole_on_gpu(a.cuda(), b.cuda().t())
    assert torch.equal(intmm.safe_int_mm(a.cuda(), b.cuda().t()).cpu(), told)
    if size > 100:  # as of a real model, whose sizes cuBLAS takes
        assert torch.equal(int8_product(a.cuda(), b.cuda().t()).cpu(), told)


def test_times_are_those_of_the_device(tmp_path: Path) -> None:
    session = Graph().start(saved(tmp_path, *MODELS["llama"]), CUDA)
    times = session.time_tokens(PROMPTS[0], 9)
    assert times == sorted(times)
    assert times[0] > 0
