"""Cells of the grid as the configuration files make them, without Hydra's command line: for tests of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.configured import component
from harness.environment import Environment
from harness.types import GROUPS, Cell, Json, SuiteData, digest, plain
from tests.grids import ROOT

ADAPTATIONS = ("prompt_rag", "lora", "full_ft")
QUANTIZATIONS = ("fp16", "int8", "gptq", "awq", "dynamic")
MACHINE = Environment("cpu", "Example CPU, 2 cores", "float32", 2, 15.6, "Linux x86_64", "3.11.9", {"torch": "2.9.0"})


@cache
def _config(overrides: tuple[str, ...]) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return dict(config)


def cell(*overrides: str) -> Cell:
    """One cell, as `python -m harness OVERRIDES` would make it."""
    config = _config(overrides)
    return Cell(**{group: component(config[group]) for group in GROUPS}, seed=config["seed"], variant="")


POLICIES = sorted(file.stem for file in (ROOT / "conf" / "policy").glob("*.yaml"))


def policy(name: str) -> dict[str, Any]:
    """One of the ready policies."""
    return dict(_config((f"policy={name}",))["policy"])


def grid(*overrides: str) -> list[Cell]:
    """The 3 × 5 grid."""
    chosen = [(f"adaptation={a}", f"quantization={q}") for a in ADAPTATIONS for q in QUANTIZATIONS]
    return [cell(*pair, *overrides) for pair in chosen]


def suite_data(**changes: Any) -> SuiteData:
    """Rows that no test looks into; the plan sees only their digests."""
    made = SuiteData(
        name="support_tone", folder=Path("suites/support_tone"), train=(), validation=(), evaluation=(), knowledge=(),
        instructions="", system="", asked="Email", message_field="message", reply_field="reply", max_new_tokens=160,
        evaluation_limit=None, output="", overlaps=(), leakage="fail",
        training_digest="t" * 16, evaluation_digest="e" * 16,
    )  # fmt: skip
    return replace(made, **changes)


def data_of(cells: Sequence[Cell], **changes: Any) -> dict[str, SuiteData]:
    """The same rows for each suite in some cells."""
    return {digest(plain(c.suite)): suite_data(**changes) for c in cells}


def reordered(value: Json) -> Json:
    """The same value with every mapping turned round."""
    if isinstance(value, dict):
        return {k: reordered(v) for k, v in reversed(list(value.items()))}
    return [reordered(v) for v in value] if isinstance(value, list) else value
