"""What a machine is said to be follows from what its system says, not from the machine the tests run on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import environment
from harness.environment import detect, oom_kills, versions

TWO = "0, GPU-aa-1, NVIDIA H100 80GB HBM3\n1, GPU-bb-2, NVIDIA A10G\n"
DIVIDED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aa-1)
  MIG 3g.40gb     Device  0: (UUID: MIG-cc-3)
  MIG 1g.10gb+me  Device  1: (UUID: MIG-dd-4)
GPU 1: NVIDIA A10G (UUID: GPU-bb-2)
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The environment is found once a process; here it is found anew, and forgotten after."""
    detect.cache_clear()
    yield
    detect.cache_clear()


def with_gpu(monkeypatch: pytest.MonkeyPatch, output: str, code: int = 0, listed: str = "") -> None:
    """A machine whose `nvidia-smi` answers so, and with `listed` if asked for a list."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(environment, "_torch_has_cuda", lambda: True)

    def answer(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if code:
            raise subprocess.CalledProcessError(code, "nvidia-smi", output)
        return subprocess.CompletedProcess([], 0, stdout=listed if "-L" in command else output, stderr="")

    monkeypatch.setattr("subprocess.run", answer)


def with_cpu(monkeypatch: pytest.MonkeyPatch, flags: str, model: str = "Example CPU") -> None:
    """A machine without a GPU whose `/proc/cpuinfo` says so."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(environment, "_cores", lambda: 2)
    monkeypatch.setattr(environment, "container_memory", lambda: [])
    text = f"processor\t: 0\nmodel name\t: {model}\nflags\t\t: {flags}\n\nprocessor\t: 1\nmodel name\t: other\n"
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self, *_, **__: text)


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("fpu avx2", "float32"),
        ("fpu avx512f avx512_vnni", "float32"),
        ("fpu avx512_bf16 avx2", "bfloat16"),
        ("amx_bf16 amx_tile", "bfloat16"),
    ],
)
def test_a_cpu_computes_in_16_bits_only_where_that_is_fast(
    monkeypatch: pytest.MonkeyPatch, flags: str, dtype: str
) -> None:
    with_cpu(monkeypatch, flags)
    found = detect()
    assert (found.device, found.dtype) == ("cpu", dtype)
    assert found.hardware == "Example CPU, 2 cores"


def test_the_first_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, TWO)
    found = detect()
    assert (found.device, found.hardware, found.dtype) == ("cuda", "NVIDIA H100 80GB HBM3", "float16")


@pytest.mark.parametrize(("asked", "order"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")])
def test_cuda_counts_as_nvidia_smi_does(monkeypatch: pytest.MonkeyPatch, asked: str | None, order: str) -> None:
    with_gpu(monkeypatch, TWO)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", asked or "")
    if asked is None:
        monkeypatch.delenv("CUDA_DEVICE_ORDER")
    detect()
    assert os.environ["CUDA_DEVICE_ORDER"] == order


@pytest.mark.parametrize(
    ("visible", "name"),
    [("0,1", "NVIDIA H100 80GB HBM3"), ("1", "NVIDIA A10G"), ("1,0", "NVIDIA A10G"), (" GPU-bb", "NVIDIA A10G"),
     ("MIG-cc", "NVIDIA H100 80GB HBM3 MIG"), ("-1", None), ("", None), ("7", None)],
)  # fmt: skip
def test_the_gpu_is_the_first_that_torch_sees(monkeypatch: pytest.MonkeyPatch, visible: str, name: str | None) -> None:
    with_gpu(monkeypatch, TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = detect()
    assert (found.hardware if found.device == "cuda" else None) == name


@pytest.mark.parametrize(("visible", "free"), [("0", 100), ("1", 20), ("-1", None)])
def test_free_memory_is_that_of_the_same_gpu(monkeypatch: pytest.MonkeyPatch, visible: str, free: int | None) -> None:
    with_gpu(monkeypatch, "0, GPU-aa-1, 100\n1, GPU-bb-2, 20\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment.free_gpu_memory() == (free * 2**20 if free else None)
    with_gpu(monkeypatch, "0, GPU-aa-1, [N/A]\n")
    assert environment.free_gpu_memory() is None


@pytest.mark.parametrize(
    ("visible", "name", "free"),
    [
        (None, "NVIDIA H100 80GB HBM3 MIG 3g.40gb", None), ("GPU-aa", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
        ("MIG-dd-4", "NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", None), ("1", "NVIDIA A10G", 20),
    ],
)  # fmt: skip
def test_a_part_of_a_gpu_is_not_taken_for_the_whole(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, name: str, free: int | None
) -> None:
    """Its latencies have keys of their own, and the card's free memory is not its."""
    with_gpu(monkeypatch, TWO, listed=DIVIDED)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert detect().hardware == name
    with_gpu(monkeypatch, "0, GPU-aa-1, 100\n1, GPU-bb-2, 20\n", listed=DIVIDED)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment.free_gpu_memory() == (free * 2**20 if free else None)


@pytest.mark.parametrize(("output", "code"), [("", 0), ("driver mismatch\n", 9)])
def test_a_gpu_that_does_not_answer_is_none(monkeypatch: pytest.MonkeyPatch, output: str, code: int) -> None:
    with_gpu(monkeypatch, output, code)
    assert detect().device == "cpu"


@pytest.mark.parametrize(
    ("line", "built"), [("cuda: Optional[str] = None", False), ("cuda = '13.0'", True), ("", False)]
)
def test_a_gpu_counts_only_where_torch_was_built_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, built: bool
) -> None:
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\nhip: Optional[str] = None\n")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert environment._torch_has_cuda() is built
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not environment._torch_has_cuda()


def test_a_gpu_is_none_to_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, TWO)
    monkeypatch.setattr(environment, "_torch_has_cuda", lambda: False)
    assert detect().device == "cpu"


@pytest.mark.parametrize(("quota", "cores"), [("max 100000\n", 8), ("250000 100000\n", 2), ("50000 100000\n", 1)])
def test_a_containers_quota_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cores: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(quota)
    assert environment._cores(tmp_path / "cpu.max") == cores
    assert environment._cores(tmp_path / "nothing") == 8


def test_it_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    gpu = environment._gpu
    monkeypatch.setattr(environment, "_gpu", lambda: asked.append(1) or gpu())  # type: ignore[func-returns-value]
    assert detect() is detect()
    assert len(asked) == 1


def test_versions_leave_out_what_is_not_installed() -> None:
    assert list(versions(("pytest", "not-installed-library"))) == ["pytest"]
    assert versions(("pytest",))["pytest"] == pytest.__version__


def test_kills_for_want_of_memory_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "vmstat"
    assert oom_kills(file) is None
    file.write_text("nr_free 3\noom_kill 12\noom_kill_x 4\n")
    assert oom_kills(file) == 12
    file.write_text("nr_free 3\n")
    assert oom_kills(file) is None
