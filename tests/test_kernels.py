"""The kernels of a GPU, interpreted on a CPU, against plain PyTorch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.grids import ROOT


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install triton")
def test_interpreted_kernels_agree_with_pytorch() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.kernels_check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "kernels agree", done.stderr
