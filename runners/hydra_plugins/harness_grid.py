"""The Hydra launcher of a whole grid on this machine.

A sweeper hands a launcher all its jobs at once, which is what a plan with shared builds needs; another launcher
(a cluster's) may take its place: each job then carries out its one cell, and the store's locks share the builds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridLauncher(Launcher):
    """Ends the process with the grid's exit code, since Hydra itself knows only 0 and 1."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from harness.grid import main

        loader = self.hydra_context.config_loader
        configs: list[Any] = []
        for overrides in job_overrides:
            job = loader.load_sweep_config(self.config, list(overrides))
            configs.append({k: job[k] for k in job if k != "hydra"})
        raise SystemExit(main([DictConfig(c) for c in configs], job_overrides, Path(self.config.hydra.sweep.dir)))


ConfigStore.instance().store(
    group="hydra/launcher", name="harness_grid", node={"_target_": "hydra_plugins.harness_grid.GridLauncher"}
)
