"""Reads the command line before Hydra does, to tell every misspelt name at once, each with the nearest there is.

Hydra stops at the first and suggests nothing. What it alone can judge (its own keys, packages, deletions, syntax) is
left to it. Choices of a user's own that it could not read are told too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.files import yaml_keys

CONFIG_DIR = ("--config-dir", "-cd")


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean NAME?` where one is near, else `; there is ...` with all of them."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there is {', '.join(sorted(known)) or 'none'}"


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders that `--config-dir` adds."""
    found = [a.partition("=")[2] for a in arguments if a.partition("=")[0] in CONFIG_DIR and "=" in a]
    found += [b for a, b in pairwise(arguments) if a in CONFIG_DIR]
    return [Path(f) for f in found]


def _paths(tree: Mapping[Any, Any], above: str) -> Iterator[str]:
    for key, value in tree.items():
        yield f"{above}.{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{above}.{key}")


def _knobs(files: Iterable[Path], group: str) -> set[str]:
    """Every dotted key in a group's files."""
    from omegaconf import OmegaConf

    trees = [OmegaConf.to_container(OmegaConf.load(file)) for file in files]
    return {path for tree in trees if isinstance(tree, Mapping) for path in _paths(tree, group)}


def unreadable(arguments: Sequence[str], conf: Path) -> list[str]:
    """One line for each file of the groups in a user's own folders that is no YAML of keys, or that would stand in for
    the entry point."""
    groups = {p.name for p in conf.iterdir() if p.is_dir()}
    entry = conf / "config.yaml"
    others = [file for folder in config_folders(arguments) if (file := folder / entry.name).is_file()]
    mistakes = [
        f"{file}: of this name is the entry point alone, {entry}; rename it, or name another folder with --config-dir"
        for file in others
        if file.read_bytes() != entry.read_bytes()
    ]
    for file in [f for folder in config_folders(arguments) for f in sorted(folder.glob("*/*.yaml"))]:
        if file.parent.name in groups:
            try:
                yaml_keys(file)
            except ValueError as error:
                mistakes.append(f"{file}: {error}; mend it or move it away")
    return mistakes


def misspelt(arguments: Sequence[str], conf: Path) -> list[str]:
    """One line for each group, choice or knob on the command line that does not exist."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    folders = [conf, *config_folders(arguments)]
    groups: dict[str, dict[str, Path]] = {}
    for folder in folders:  # of two files of one name the user's own counts
        for file in sorted(folder.glob("*/*.yaml")):
            groups.setdefault(file.parent.name, {})[file.stem] = file
    top = {str(k) for k in OmegaConf.load(conf / "config.yaml")} - {"defaults", "hydra"}
    parser = OverridesParser.create()
    mistakes = []
    for argument in arguments:
        if "=" not in argument or argument.startswith(("-", "~")):
            continue
        try:
            override = parser.parse_override(argument)
        except HydraException:
            continue
        key, plain = override.key_or_group, not argument.startswith("+")
        if key == "hydra.searchpath":
            return []  # choices may stand anywhere
        group = key.partition(".")[0]
        if "/" in key or group == "hydra":
            continue
        if key in groups:
            choices = list(groups[key])
            value = "null" if override.value() is None else override.value()
            given = list(override.sweep_string_iterator()) if isinstance(value, ChoiceSweep) else [value]
            mistakes += [
                f"{key}={name}: no such choice{nearest(name, choices)}"
                for name in given
                if isinstance(name, str) and name not in choices
            ]
        elif plain and group in groups and key not in (knobs := _knobs(groups[group].values(), group)):
            mistakes.append(f"{key}: no such knob{nearest(key, sorted(knobs))}")
        elif plain and group not in groups and key not in top:
            mistakes.append(f"{key}: no such group or key{nearest(group, sorted({*groups, *top}))}")
    return mistakes
