"""`python -m harness`: composes the configuration and hands the grid to its launcher.

Exit codes: 0 all cells ok or unsupported, 1 a cell failed, 2 a user's mistake, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from harness.errors import UserError
from harness.overrides import CONFIG_DIR, misspelt
from harness.resources import resource


def _mistake(lines: list[str]) -> int:
    for line in lines:
        print(f"harness: {line}", file=sys.stderr)
    return 2


def _told(error: BaseException) -> str:
    """What Hydra or OmegaConf says in several lines, in one, without where it looked and how it stores."""
    noise = ("Config search path", "provider=", "full_key", "object_type", "reference_type")
    causes = (error, error.__cause__)
    lines = [line.strip() for e in causes if e is not None for line in str(e).splitlines()]
    return " ".join(dict.fromkeys(line for line in lines if line and not line.startswith(noise)))


FOR_THIS_MACHINE = {"profile": {"cuda": "standard", "cpu": "quick"}, "engine": {"cuda": "graph", "cpu": "eager"}}


def _with_choices(arguments: list[str]) -> list[str]:
    """Adds the default profile and engine for this machine where none is chosen, and says so."""
    asks = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "--shell-completion", "-sc")
    if any(a.partition("=")[0] in asks for a in arguments):
        return arguments
    from harness.environment import detect

    device = detect().device
    unsaid = [g for g in FOR_THIS_MACHINE if not any(a.startswith((f"{g}=", f"+{g}=")) for a in arguments)]
    chosen = [f"{group}={FOR_THIS_MACHINE[group][device]}" for group in unsaid]
    if chosen:
        print(f"{' '.join(chosen)} (the default {'without' if device == 'cpu' else 'with'} a GPU)")
    # among the other overrides: Hydra's parser takes them in one piece, before its flags or after
    at = next((n for n, a in enumerate(arguments) if "=" in a and not a.startswith("-")), 0)
    return [*arguments[:at], *chosen, *arguments[at:]]


def _with_own_choices(arguments: list[str], packaged: Path) -> list[str]:
    """Adds `conf/` of the working directory, where a team keeps suites, sweeps and choices of its own."""
    own = Path("conf").resolve()
    named = any(a.partition("=")[0] in CONFIG_DIR for a in arguments)
    return arguments if named or own == packaged or not own.is_dir() else [*arguments, "--config-dir", str(own)]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here whole, to be told in one line with exit code 2

    def one_cell(config: DictConfig) -> int:
        """What another launcher calls for each job: a grid of one cell."""
        from harness.grid import main as run_grid

        return run_grid([config], [[]], Path.cwd())

    conf = resource("conf").resolve()
    given = _with_own_choices(list(sys.argv[1:] if arguments is None else arguments), conf)
    if mistakes := misspelt(given, conf):
        return _mistake([f"{mistake} (python -m harness --help)" for mistake in mistakes])
    sys.argv = ["harness", *_with_choices(given)]
    try:
        hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(one_cell)()
    except UserError as error:
        return _mistake(list(error.mistakes))
    except (HydraException, OmegaConfBaseException) as error:
        return _mistake([f"{_told(error)} (python -m harness --help lists what may be chosen)"])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
