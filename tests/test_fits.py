"""Work that memory cannot hold is refused before it starts, with what it needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.engine import fits
from harness.engine.eager import Eager
from harness.engine.graph import Graph
from harness.errors import DoesNotFit
from harness.launch import told
from harness.loading import kv_bytes_per_token
from tests.test_engine import CONTEXT, PROMPTS
from tests.test_graph import MODELS, saved


@pytest.mark.parametrize("engine", [Eager(batch_size=4, min_prefix=0), Graph(batch_size=4)])
def test_rows_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Eager | Graph
) -> None:
    session = engine.start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    longest = max(len(session.tokenizer(p, add_special_tokens=False).input_ids) for p in PROMPTS)
    rows, tokens = (
        (4, longest + 9) if isinstance(engine, Eager) else (9, 128)
    )  # the slots of its proof, and one for padding
    needed = rows * tokens * kv_bytes_per_token(session.model)
    monkeypatch.setattr(fits, "free_bytes", lambda device: needed)
    assert len(session.generate(PROMPTS, 9)) == 4
    session = engine.start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    monkeypatch.setattr(fits, "free_bytes", lambda device: needed - 1)
    with pytest.raises(DoesNotFit, match=f"{rows} rows of {tokens} tokens need 0.0 GiB .* lower engine.batch_size"):
        session.generate(PROMPTS, 9)


def test_free_memory_is_read() -> None:
    assert 2**20 < fits.free_bytes("cpu") < 2**50


def test_pytorchs_own_error_is_told_as_what_it_is() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
    assert told(error) == "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert told(ValueError("")) == "ValueError: no message"
