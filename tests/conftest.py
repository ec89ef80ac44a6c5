"""What several tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from harness.check.__main__ import main
from tests import gates
from tests.grids import TINY, harness, run_folder

SHARED = ("test_grid", "test_export")  # whose tests look at a grid that runs for all of them


def pytest_configure() -> None:
    """Gives each of several workers a core of its own, and so all that its tests start: two that both compute on every
    core spend most of their time waiting for each other's threads."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They come first: a worker that is done with its own tests takes the last of another's, and would run it again."""
    items.sort(key=lambda item: item.path.stem not in SHARED)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the harness keeps for a user (checksums, compiled attention) is not kept for who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder where two adaptations and two quantizations have run, once for all workers, and its run folder. It stays
    as it is: `tests.grids.linked` gives one to work in."""
    base = tmp_path_factory.getbasetemp()
    cwd = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "pair"
    with FileLock(cwd.with_suffix(".lock")):
        if not (note := cwd / "run").is_file():
            cwd.mkdir(exist_ok=True)
            done = harness(cwd, "+sweep=support_tone", *TINY, "adaptation=prompt_rag,lora", "quantization=fp16,gptq")
            assert done.returncode == 0, done.stdout + done.stderr
            note.write_text(str(run_folder(done)))
    return cwd, Path(note.read_text())


def keep_gptqmodel(patch: pytest.MonkeyPatch) -> None:
    """Has gptqmodel's methods be its own again when `patch` is undone, whatever `harness.quantize.awq_faster` puts in
    their place meanwhile: this process goes on to other tests."""
    from gptqmodel.looper.awq_processor import AWQProcessor
    from gptqmodel.nn_modules.qlinear.gemm_awq import AwqGEMMLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear

    for owner, name in (
        (AWQProcessor, "_compute_best_clip"), (AWQProcessor, "_compute_best_scale"),
        (AwqTorchLinear, "SUPPORTS_DTYPES"), (AwqTorchLinear, "pack"), (AwqGEMMLinear, "pack"),
    ):  # fmt: skip
        patch.setattr(owner, name, getattr(owner, name))


@pytest.fixture
def gptqmodel_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that quantizes to AWQ in this process."""
    keep_gptqmodel(monkeypatch)


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """A baseline file of one cell."""
    made = gates.rows()
    run = gates.run(tmp_path / "first", (gates.cell(made), made))
    assert main([str(run), "--save-baseline", str(tmp_path / "base.json")]) == 0
    return tmp_path / "base.json"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test whose working directory is a new one."""
    monkeypatch.chdir(tmp_path)
