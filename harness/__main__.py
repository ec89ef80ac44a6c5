"""`python -m harness`: composes the configuration and hands the grid to its launcher.

Exit codes: 0 all cells ok or unsupported, 1 a cell or a round of it failed, 2 a user's mistake, 70 a fault of the
harness itself, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from harness import __version__
from harness.errors import UserError
from harness.overrides import (
    COMPLETION,
    CONFIG_DIR,
    as_grid,
    causes,
    config_folders,
    groups_of,
    listed,
    misspelt,
    unreadable,
)
from harness.resources import resource
from harness.terminal import ended
from harness.wording import nearest


def _told(error: BaseException) -> str:
    """What Hydra or OmegaConf says in several lines, in one, without where it looked and how it stores."""
    noise = ("Config search path", "provider=", "full_key", "object_type", "reference_type")
    causes = (error, error.__cause__)
    lines = [line.strip() for e in causes if e is not None for line in str(e).splitlines()]
    return " ".join(dict.fromkeys(line for line in lines if line and not line.startswith(noise)))


FOR_THIS_MACHINE = {
    "HARNESS_PROFILE": {"cuda": "standard", "cpu": "quick"},
    "HARNESS_ENGINE": {"cuda": "graph", "cpu": "eager"},
}


def _name_defaults(arguments: list[str]) -> None:
    """Names this machine's profile and engine in the variables that `conf/config.yaml` reads its defaults from: what a
    command line, a sweep file or the caller's own variable (an empty one says nothing) says then wins, as over any
    default."""
    for variable in FOR_THIS_MACHINE:
        if not os.environ.get(variable):
            os.environ.pop(variable, None)
    asks = ("--help", "-h", "--hydra-help", *COMPLETION)
    if any(a.partition("=")[0] in asks for a in arguments):
        return
    from harness.environment import detect

    device = detect().device
    for variable, choice in FOR_THIS_MACHINE.items():
        os.environ.setdefault(variable, choice[device])


def _misnamed(arguments: list[str], conf: Path) -> list[str]:
    """A line for each of these variables that names no choice."""
    groups, found = groups_of(arguments, conf), []
    for variable in FOR_THIS_MACHINE:
        name, known = os.environ.get(variable, ""), groups[variable.removeprefix("HARNESS_").lower()]
        if name and name not in known:
            found.append(f"{variable}={name}: no such choice{nearest(name, list(known))}")
    return found


def _with_own_choices(arguments: list[str], packaged: Path) -> list[str]:
    """Adds `conf/` of the working directory, where a team keeps suites, sweeps and choices of its own."""
    own = Path("conf").resolve()
    named = any(a.partition("=")[0] in CONFIG_DIR for a in arguments)
    return arguments if named or own == packaged or not own.is_dir() else [*arguments, "--config-dir", str(own)]


def _own_first(arguments: list[str], packaged: Path) -> tuple[Path, list[str]]:
    """Where Hydra looks first, and the arguments that have it look in `packaged` then: of two choices of one name it
    takes the first, and a file of one's own must not be passed over without a word."""
    own = next((f.resolve() for f in reversed(config_folders(arguments)) if f.is_dir()), packaged)
    return own, arguments if own == packaged else [*arguments, "--config-dir", str(packaged)]


def _run(asked: list[str]) -> int:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here whole, to be told in one line with exit code 2

    def one_cell(config: DictConfig) -> int:
        """What another launcher calls for each job: a grid of one cell."""
        from hydra.core.hydra_config import HydraConfig

        from harness.grid import main as run_grid

        return run_grid([config], [[]], Path(HydraConfig.get().runtime.output_dir))

    conf = resource("conf").resolve()
    if "--version" in asked:
        print(f"harness {__version__}")
        return 0
    given = _with_own_choices(["dry_run=true" if a == "--dry-run" else a for a in asked], conf)
    if mistakes := unreadable(given, conf) or misspelt(given, conf):
        raise UserError(mistakes)
    _name_defaults(given)
    OmegaConf.register_new_resolver("harness.choices", lambda: listed(given, conf), replace=True)
    first, for_hydra = _own_first(as_grid(given, conf), conf)
    sys.argv = ["harness", *for_hydra]
    try:
        hydra.main(version_base="1.3", config_path=str(first), config_name="config")(one_cell)()
    except (HydraException, OmegaConfBaseException) as error:
        told = f"{_told(error)} (python -m harness --help lists what may be chosen)"
        raise UserError(_misnamed(given, conf) or causes(error, given, conf) or [told]) from error
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return ended(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


if __name__ == "__main__":
    sys.exit(main())
