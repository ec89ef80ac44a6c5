"""Quantizations that go wrong on purpose, chosen through `--config-dir tests/conf`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.environment import Environment
from harness.types import Context, Json


@dataclass(frozen=True, slots=True)
class Dies:
    """Is killed, as by the system when memory runs out."""

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


@dataclass(frozen=True, slots=True)
class Raises:
    """Raises what no one foresaw."""

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        (out / "half.safetensors").write_text("half")
        raise ZeroDivisionError("a bug in a quantizer")


@dataclass(frozen=True, slots=True)
class Garbage:
    """Saves a model that answers nonsense, without an error."""

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        import torch
        from transformers import AutoModelForCausalLM

        loaded = AutoModelForCausalLM.from_pretrained(str(model))
        with torch.no_grad():
            for weight in loaded.parameters():
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        loaded.save_pretrained(str(out))
        return {}


@dataclass(frozen=True, slots=True)
class Cannot:
    """Says by itself that it cannot run here."""

    def unsupported(self, environment: Environment) -> str | None:
        return "needs a device of the future"

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        raise AssertionError("an unsupported cell was run")


@dataclass(frozen=True, slots=True)
class Hangs:
    """Begins, and never ends."""

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        threading.Event().wait()
        return {}
