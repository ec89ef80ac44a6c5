"""Attention of one token a row as gcc makes it, held to exact attention."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from harness.engine import compiled, one_token, ops
from harness.engine.one_token import OURS, attend_one, attends_by


@pytest.fixture(autouse=True)
def _compiled_anew() -> Iterator[None]:
    one_token._compiled.cache_clear()
    yield
    one_token._compiled.cache_clear()


def made(dtype: torch.dtype, heads: int, kv: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries of five rows, and keys and values of seven slots, of which a window on larger ones is handed over."""
    seeded = torch.Generator().manual_seed(0)
    query = 2 * torch.randn(5, heads, size, generator=seeded).to(dtype)
    keys, values = (torch.randn(7, kv, 230, size, generator=seeded).to(dtype)[:, :, :200] for _ in range(2))
    return query, keys, values


def heads_of(heads: int) -> LlamaConfig:
    return LlamaConfig(num_attention_heads=heads, hidden_size=16 * heads)


BEGINS, ENDS, SLOTS = [torch.tensor(t) for t in ([0, 3, 64, 130, 0], [1, 200, 128, 131, 65], [6, 0, 3, 2, 1])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("heads", "kv", "size"), [(9, 3, 64), (4, 4, 80), (6, 1, 16), (2, 2, 20)])
def test_each_row_attends_to_its_own_slot_between_its_bounds(
    dtype: torch.dtype, heads: int, kv: int, size: int
) -> None:
    query, keys, values = made(dtype, heads, kv, size)
    found = attend_one(query, keys, values, BEGINS, ENDS, 0.3, SLOTS)
    assert found is not None, attends_by(keys, heads_of(heads))
    for row in range(5):
        some = slice(int(BEGINS[row]), int(ENDS[row]))
        key, value = (t[SLOTS[row], :, some].double().repeat_interleave(heads // kv, 0) for t in (keys, values))
        scores = (query[row, :, None].double() @ key.transpose(1, 2))[:, 0] * 0.3
        exact = (scores.softmax(-1)[:, None] @ value)[:, 0]
        # one rounding of the result is all that bfloat16 may cost
        assert float((found[row] - exact).norm() / exact.norm()) < (1e-6 if dtype == torch.float32 else 2**-8.5)


def test_a_row_does_not_depend_on_its_neighbours_or_on_threads() -> None:
    query, keys, values = made(torch.bfloat16, 9, 3, 64)
    together = attend_one(query, keys, values, BEGINS, ENDS, 0.3, SLOTS)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 3)
        alone = [
            attend_one(query[n : n + 1], keys, values, BEGINS[n : n + 1], ENDS[n : n + 1], 0.3, SLOTS[n : n + 1])
            for n in range(5)
        ]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_all_rows_share_may_be_attended_to_beside(dtype: torch.dtype) -> None:
    query, keys, values = made(dtype, 6, 2, 32)
    shared = [torch.randn(1, 2, 40, 32, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (1, 2)]
    across = query.view(5, 2, 3, 32).transpose(0, 1).reshape(1, 2, 15, 32)
    beside = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(across, *shared, scale=0.3)
    found = attend_one(query, keys, values, BEGINS, ENDS, 0.3, SLOTS, beside)
    for row in range(5):
        some = slice(int(BEGINS[row]), int(ENDS[row]))
        whole = [torch.cat([a[0], t[SLOTS[row], :, some]], dim=1) for a, t in zip(shared, (keys, values), strict=True)]
        key, value = (t.double().repeat_interleave(3, 0) for t in whole)
        exact = (((query[row, :, None].double() @ key.transpose(1, 2)) * 0.3).softmax(-1) @ value)[:, 0]
        assert float((found[row] - exact).norm() / exact.norm()) < (1e-6 if dtype == torch.float32 else 2**-8)


@pytest.mark.parametrize("window", [0, 7, 500])
def test_slots_are_read_as_pytorchs_attention_reads_them(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, keys, values = made(torch.float32, 4, 2, 32)
    given = query[:, None], (keys, values), SLOTS, (ENDS - 1)[:, None], 0.2, window
    found = ops.attend(*given)
    monkeypatch.setattr(ops, "attend_one", lambda *_: None)
    torch.testing.assert_close(found, ops.attend(*given))


def test_what_is_not_a_number_stays_none() -> None:
    query, keys, values = made(torch.bfloat16, 4, 4, 64)
    keys[6, 0, 0, 0] = torch.nan
    found = attend_one(query, keys, values, BEGINS, ENDS, 0.3, SLOTS)
    assert found[0, 0].isnan().all()
    assert not found[0, 1:].isnan().any()


@pytest.mark.parametrize(
    ("bounds", "error"),
    [
        ((BEGINS, ENDS + 8, SLOTS), "row 2 of 5 asks for keys that are not in 7 x 200"),
        ((ENDS, ENDS, SLOTS), "row 1 of 5"),
        ((BEGINS - 1, ENDS, SLOTS), "row 1 of 5"),
        ((BEGINS, ENDS, SLOTS + 1), "row 1 of 5"),
        ((BEGINS, ENDS, SLOTS - 1), "row 2 of 5"),
        ((BEGINS[:4], ENDS, SLOTS), "another make"),
        ((BEGINS, ENDS.int(), SLOTS), "another make"),
    ],
)
def test_keys_that_are_not_there_are_not_read(bounds: tuple[torch.Tensor, ...], error: str) -> None:
    begins, ends, slots = bounds
    query, keys, values = made(torch.float32, 4, 2, 32)
    with pytest.raises((IndexError, ValueError), match=error):
        attend_one(query, keys, values, begins, ends, 0.3, slots)


def test_what_the_function_would_read_otherwise_is_left_to_pytorch() -> None:
    query, keys, values = made(torch.float32, 6, 2, 32)
    bounds = BEGINS, ENDS, 0.3, SLOTS
    assert attend_one(query, keys, values, *bounds) is not None
    assert attend_one(query, keys.bfloat16(), values, *bounds) is None
    assert attend_one(query, keys, values.bfloat16(), *bounds) is None
    assert attend_one(query, keys, values[:, :, :5], *bounds) is None
    assert attend_one(query[..., :16], keys, values, *bounds) is None
    assert attend_one(query, keys[..., :16], values[..., :16], *bounds) is None
    assert attend_one(query[:, :5], keys, values, *bounds) is None
    assert attend_one(query[:, :1], keys, values, *bounds) is None
    assert attend_one(query, keys, values.clone(), *bounds) is None  # side by side, and keys are not
    for learns in range(3):
        query, keys, values = (t.detach().requires_grad_(n == learns) for n, t in enumerate((query, keys, values)))
        assert attend_one(query, keys, values, *bounds) is None
    assert attend_one(query.repeat(1, 3, 1), keys.detach(), values.detach(), *bounds) is None
    assert "9 heads share their keys" in attends_by(keys, heads_of(18))
    assert attends_by(keys, type("Config", (), {"get_text_config": lambda *_, **__: None})()) == "not known"


def test_what_is_compiled_is_kept_for_the_next_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keys = torch.zeros(1, 1, 8, 16)
    assert attends_by(keys, heads_of(2)) == OURS
    (kept,) = (tmp_path / "harness" / "compiled").iterdir()
    os.utime(kept, (1, 1))
    one_token._compiled.cache_clear()
    assert attends_by(keys, heads_of(2)) == OURS
    assert kept.stat().st_mtime == 1
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    half = tmp_path / "other" / "harness" / "compiled" / kept.name
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    one_token._compiled.cache_clear()
    assert attends_by(keys, heads_of(2)) == OURS
    assert len(half.read_bytes()) > 1000
    (tmp_path / "file").touch()  # nothing can be kept there
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    one_token._compiled.cache_clear()
    assert attends_by(keys, heads_of(2)) == OURS


def command(folder: Path, text: str) -> str:
    """A compiler of so much shell."""
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "No such file or directory"),
        ("echo '#define __clang__ 1'", "is clang, not gcc"),
        ("echo '#define __FAST_MATH__ 1'", "asks for -ffast-math"),
        ("case $* in *-dM*) ;; *) echo cannot find -lgomp >&2; exit 1;; esac", "cannot find -lgomp"),
        ("case $* in *-dM*) ;; *) while [ $1 != -o ]; do shift; done; echo no library > $2;; esac", "file too short"),
    ],
)
def test_without_a_compiler_pytorch_attends_and_it_is_told_why(
    text: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", command(tmp_path, text) if text else "/nowhere/gcc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    query, keys, values = made(torch.float32, 4, 2, 32)
    assert attend_one(query, keys, values, BEGINS, ENDS, 0.3, SLOTS) is None
    assert attends_by(keys, heads_of(4)).startswith("PyTorch's (")
    assert why in attends_by(keys, heads_of(4))


@pytest.mark.parametrize(
    "wrong", [("sum[g][i] *= shrunk", "sum[g][i] *= 1"), ("expf(own - lse[there])", "expf(lse[there] - own)")]
)
def test_what_computes_otherwise_is_not_used(
    wrong: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (compiled.HEADER, "attention.c"):
        text = (compiled.FOLDER / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace(*wrong), encoding="utf-8")
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    query, keys, values = made(torch.float32, 4, 2, 32)
    assert attend_one(query, keys, values, BEGINS, ENDS, 0.3, SLOTS) is None
    assert "its results are" in attends_by(keys, heads_of(4))
