"""Builds on a GPU that come out the same each time, as far as a CPU shows it: what PyTorch is asked for, and when."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import execute
from harness.environment import detect
from harness.store import Store
from harness.types import Component, Step, StepKind

REFUSED = "cumsum_cuda_kernel does not have a deterministic implementation, but you set it. You can turn it off."


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Mapping[str, Any]]:
    """Carries out a step whose work is given; returns what is in its manifest."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    here = detect()

    def run(kind: StepKind, device: str, work: Callable[[Path], Mapping[str, Any]]) -> Mapping[str, Any]:
        monkeypatch.setattr(execute, "detect", lambda: replace(here, device=device))
        monkeypatch.setattr(execute, f"_{kind}", lambda step, parents, out, context: work(out))
        step, store = Step(kind, "k", "t", Component("m", "", {}), (), {}, 0), Store(tmp_path)
        store.prepare()
        try:
            execute.carry_out(step, [], store, lambda *_: None, 1)
        finally:
            assert not torch.are_deterministic_algorithms_enabled(), "later steps are not slowed"
        return store.manifest(step) or {}

    return run


def asked(*_: Path) -> dict[str, Any]:
    """What PyTorch is asked for."""
    return {
        "strictly": torch.get_deterministic_debug_mode() == 2,  # to warn alone leaves attention's gradients as they are
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
    }


@pytest.mark.parametrize(
    ("kind", "device", "strictly"),
    [
        (StepKind.ADAPT, "cuda", True), (StepKind.QUANTIZE, "cuda", True), (StepKind.QUALITY, "cuda", False),
        (StepKind.LATENCY, "cuda", False), (StepKind.ADAPT, "cpu", False),
    ],
)  # fmt: skip
def test_builds_on_a_gpu_add_in_order(built: Any, kind: StepKind, device: str, strictly: bool) -> None:
    facts = built(kind, device, asked)["facts"]
    assert facts == {"strictly": strictly, "filled": not strictly}


def test_what_knows_no_order_is_built_without_and_says_so(built: Any, tmp_path: Path) -> None:
    """In an empty folder again: weights of a parent that are linked into it cannot be linked twice."""
    parent = tmp_path / "model.safetensors"
    parent.write_bytes(b"12345")

    def work(out: Path) -> Mapping[str, Any]:
        os.link(parent, out / parent.name)
        (out / "adapter").mkdir()
        if asked()["strictly"]:
            raise RuntimeError(REFUSED)
        return {"made": "once more"}

    facts = built(StepKind.ADAPT, "cuda", work)["facts"]
    why = "cumsum_cuda_kernel does not have a deterministic implementation, but you set it"
    assert facts == {"made": "once more", "not_repeatable": why}


def test_what_else_goes_wrong_does_so_once(built: Any) -> None:
    calls: list[int] = []

    def work(out: Path) -> Mapping[str, Any]:
        calls.append(1)
        raise RuntimeError("CUDA error: device-side assert")

    with pytest.raises(RuntimeError, match="device-side assert"):
        built(StepKind.ADAPT, "cuda", work)
    assert calls == [1]
