"""A machine's own choice of profile and engine is a default: whatever names another wins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra_plugins.harness_grid import GridLauncher
from omegaconf import OmegaConf

from harness.resources import resource
from tests.grids import harness

OF_GRAPH = (
    "      engine.capture: false\n      engine.batch_size: 0\n"  # a knob of graph alone, and a mistake that stops
)


@pytest.mark.parametrize("way", ["params", "defaults", "command line", "environment", "nothing"])
def test_what_a_sweep_file_or_a_user_says_beats_the_machines_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.delenv("HARNESS_ENGINE", raising=False)
    folder = tmp_path / "conf/sweep"
    folder.mkdir(parents=True)
    defaults = "defaults:\n  - override /engine: graph\n" if way == "defaults" else ""
    params = "      engine: graph\n" if way == "params" else ""
    text = f"# @package _global_\n{defaults}hydra:\n  sweeper:\n    params:\n{params}{OF_GRAPH}"
    (folder / "of_graph.yaml").write_text(text, encoding="utf-8")
    if way == "environment":
        monkeypatch.setenv("HARNESS_ENGINE", "graph")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a machine that would choose eager
    done = harness(tmp_path, "+sweep=of_graph", *(["engine=graph"] if way == "command line" else []))
    assert done.returncode == 2, done.stdout + done.stderr
    assert ("batch_size=0: must be 1 or more" in done.stderr) == (way != "nothing"), done.stderr
    assert ("engine.capture" in done.stderr) == (way == "nothing"), done.stderr


def test_a_variable_that_is_empty_says_nothing_and_one_that_names_no_choice_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HARNESS_PROFILE", "HARNESS_ENGINE"):
        monkeypatch.setenv(variable, "")
    assert harness(tmp_path, "--help").returncode == 0
    monkeypatch.setenv("HARNESS_PROFILE", "standart")
    assert harness(tmp_path, "--cfg=job", "profile=quick").returncode == 0
    mistake = "harness: HARNESS_PROFILE=standart: no such choice; did you mean standard?\n"
    assert harness(tmp_path, "--help").stderr == mistake


@pytest.mark.parametrize(("cells", "said"), [(50, ""), (120, "harness: composing 120 cells\n")])
def test_the_composing_of_many_cells_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cells: int, said: str
) -> None:
    monkeypatch.setattr("harness.grid.main", lambda configs, *_: len(configs))
    launcher = GridLauncher()
    launcher.config = OmegaConf.create({"hydra": {"sweep": {"dir": "run"}}})
    loader = SimpleNamespace(load_sweep_config=lambda *_: {"seed": 0})
    launcher.hydra_context = SimpleNamespace(config_loader=loader)
    with pytest.raises(SystemExit, match=f"^{cells}$"):
        launcher.launch([[]] * cells, 0)
    assert capsys.readouterr().err == said


def own(folder: Path, name: str, old: str, new: str) -> None:
    """A choice of one's own: the packaged file of that name, changed."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((resource("conf") / name).read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("named", [(), ("--config-dir", "team"), ("--config-dir=team",)])
def test_a_choice_of_ones_own_stands_in_for_the_packaged_one_of_its_name(tmp_path: Path, named: tuple[str]) -> None:
    folder = tmp_path / ("team" if named else "conf")
    own(folder, "adaptation/lora.yaml", "rank: 16", "rank: 8")
    own(folder, "price/list_2026.yaml", "volume_requests: 1000000", "volume_requests: 777")
    done = harness(tmp_path, *named, "--cfg", "job", "adaptation=lora")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank: 8\n" in done.stdout
    assert "volume_requests: 777\n" in done.stdout
    assert "usd_per_million_input" in done.stdout, "of hosted APIs"


def test_no_file_of_ones_own_is_the_entry_point(tmp_path: Path) -> None:
    own(tmp_path / "conf", "config.yaml", "seed: 0", "seed: 7")
    done = harness(tmp_path, "--cfg", "job")
    assert done.returncode == 2
    assert done.stderr.startswith(f"harness: {tmp_path}/conf/config.yaml: of this name is the entry point alone, ")
    own(tmp_path / "conf", "config.yaml", "", "")
    assert harness(tmp_path, "--cfg", "job").returncode == 0, "a copy of it is no other"
