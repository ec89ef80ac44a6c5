"""The Hydra launcher of a whole grid on this machine, and a sweeper that writes nothing before all is checked.

A sweeper hands a launcher all its jobs at once, which is what a plan with shared builds needs; another launcher
(a cluster's) may take its place: each job then carries out its one cell, and the store's locks share the builds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

MANY = 50  # cells whose composing is told: it takes ten seconds


class GridLauncher(Launcher):
    """Ends the process with the grid's exit code, since Hydra itself knows only 0 and 1."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from harness.grid import main
        from harness.terminal import tell

        if len(job_overrides) > MANY:
            tell([f"composing {len(job_overrides)} cells"])
        loader = self.hydra_context.config_loader
        configs: list[Any] = []
        for overrides in job_overrides:
            job = loader.load_sweep_config(self.config, list(overrides))
            configs.append({k: job[k] for k in job if k != "hydra"})
        sweep: Any = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        fresh = "${now:" in sweep["dir"]  # a folder that is named otherwise is meant, be it there or not
        run = Path(self.config.hydra.sweep.dir)
        raise SystemExit(main([DictConfig(c) for c in configs], job_overrides, run, fresh))


class GridSweeper(BasicSweeper):  # type: ignore[misc]
    """Hydra's own, but for the run folder and `multirun.yaml` that it makes first: a mistake must leave no run, and a
    folder that cannot be made is told with the other mistakes. It ends with the worst exit code of another launcher's
    jobs."""

    def sweep(self, arguments: list[str]) -> Any:
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        (jobs,) = self.split_arguments(overrides, None)
        results = self.launcher.launch(jobs, initial_job_idx=0)
        raise SystemExit(max(result.return_value for result in results))  # or what a job raised


ConfigStore.instance().store(
    group="hydra/launcher", name="harness_grid", node={"_target_": "hydra_plugins.harness_grid.GridLauncher"}
)
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="harness_grid",
    node={"_target_": "hydra_plugins.harness_grid.GridSweeper", "max_batch_size": None, "params": None},
)
