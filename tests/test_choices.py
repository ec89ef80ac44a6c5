"""A machine's own choice of profile and engine is a default: whatever names another wins."""

from __future__ import annotations

from pathlib import Path

import pytest

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
