"""Reads the command line before Hydra does, to tell every misspelt name at once, each with the nearest there is.

Hydra stops at the first and suggests nothing. What it alone can judge (its own keys, packages, deletions, syntax) is
left to it, and told in our words where it refuses (`causes`). Choices of a user's own that it could not read are told
too.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.escaping import config_value
from harness.files import yaml_keys
from harness.wording import nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

CONFIG_DIR = ("--config-dir", "-cd")
MULTIRUN = ("--multirun", "-m")
CFG = ("--cfg", "-c")
COMPLETION = ("--shell-completion", "-sc")
OPTIONS = (  # Hydra's
    "--cfg", "--config-dir", "--config-name", "--config-path", "--experimental-rerun", "--help", "--hydra-help",
    "--info", "--multirun", "--package", "--resolve", "--run", "--shell-completion", "--version",
)  # fmt: skip
LETTERS = ("-c", "-h", "-i", "-m", "-p", "-r", "-s")  # that short ones begin with
HELP = "(python -m harness --help)"
ONE_SWEEP = "one sweep a run; run once for each"
ADDED = ("curve",)  # keys that a grid reads and conf/config.yaml does not have
CLOSED = ("policy", "price", "profile", "runner")  # groups without a class that would refuse a knob it does not have
UNCHECKED = ("measure", "price", "profile", "runner", "suite")  # groups whose unknown keys nothing else refuses
OPTIONAL = ("suite.train_share",)  # keys that are read and stand in no packaged choice
OF_NAMES = ("price.hardware", "price.hosted")  # keys whose own keys are names, each with what is told of it
ELSEWHERE = {  # keys of Hydra's that a grid does not read, and what does what they would
    "hydra.run.dir": "a run goes to hydra.sweep.dir=DIR, or into a folder of outputs=DIR",
    "hydra.sweep.subdir": "all cells of a grid go to one folder, hydra.sweep.dir=DIR",
    "hydra.job.chdir": "a grid stays in the working directory",
    "hydra.job.env_set": "set variables before the command, as NAME=VALUE python -m harness ...",
}
SENTENCES = ("suite.system", "suite.asked", "model.note")  # knobs whose values hold commas that are no sweep's
FOLDERS = ("outputs", "store", "hydra.sweep.dir")
GATE = "check"  # the folder of the release gate's rules, which stand in conf/ and are chosen for no grid

Groups = Mapping[str, Mapping[str, Path]]


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders that `--config-dir` adds."""
    found = [a.partition("=")[2] for a in arguments if a.partition("=")[0] in CONFIG_DIR and "=" in a]
    found += [b for a, b in pairwise(arguments) if a in CONFIG_DIR]
    return [Path(f) for f in found]


def _searched(overrides: Sequence[Override]) -> list[str]:
    """What `hydra.searchpath` adds, as it is given."""
    given = [o.value() for o in overrides if o.key_or_group == "hydra.searchpath"]
    paths = [p for value in given for p in (value if isinstance(value, list) else [value]) if p is not None]
    return [str(getattr(p, "text", p)) for p in paths]


def _folder(searched: str) -> Path | None:
    """The folder of a search path; None for one within a package."""
    scheme, _, rest = searched.rpartition("://")
    return Path(rest) if scheme in ("", "file") else None


def _paths(tree: Mapping[Any, Any], above: str) -> Iterator[str]:
    for key, value in tree.items():
        yield f"{above}.{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{above}.{key}")


def _keys(file: Path) -> set[str]:
    """Every dotted key that a choice has: its group's name, then its own."""
    from omegaconf import OmegaConf

    group, tree = file.parent.name, OmegaConf.to_container(OmegaConf.load(file))
    return set(_paths(tree, group)) if isinstance(tree, Mapping) else set()


def groups_of(arguments: Sequence[str], conf: Path) -> Groups:
    """The files of each group by name; of two of one name the user's own counts."""
    found: dict[str, dict[str, Path]] = {}
    searched = filter(None, map(_folder, _searched(_parsed(arguments))))
    for folder in (*searched, conf, *config_folders(arguments)):
        for file in sorted(folder.glob("*/*.yaml")):
            found.setdefault(file.parent.name, {})[file.stem] = file
    return {group: files for group, files in found.items() if group != GATE}


def _defaults(conf: Path) -> dict[str, str]:
    """The choice in each group where none is named."""
    from omegaconf import DictConfig, OmegaConf

    entry: Any = OmegaConf.load(conf / "config.yaml")
    return {str(g): str(name) for item in entry.defaults if isinstance(item, DictConfig) for g, name in item.items()}


def _keys_of_all(conf: Path) -> set[str]:
    """The keys that stand beside the groups."""
    from omegaconf import OmegaConf

    return {str(k) for k in OmegaConf.load(conf / "config.yaml")} - {"defaults", "hydra"} | {*ADDED}


def listed(arguments: Sequence[str], conf: Path) -> str:
    """A line for each group with all that may be chosen of it, for `--help`."""
    groups, set_already = sorted(groups_of(arguments, conf).items()), _defaults(conf)
    lines = [f"{'' if group in set_already else '+'}{group}: {', '.join(sorted(files))}" for group, files in groups]
    return "\n".join(lines)


def unreadable(arguments: Sequence[str], conf: Path) -> list[str]:
    """One line for each file of the groups, be it a user's own, that is no YAML of keys, and for each that would stand
    in for the entry point."""
    groups = {p.name for p in conf.iterdir() if p.is_dir()}
    entry = conf / "config.yaml"
    others = [file for folder in config_folders(arguments) if (file := folder / entry.name).is_file()]
    mistakes = [
        f"{file}: of this name is the entry point alone, {entry}; rename it, or name another folder with --config-dir"
        for file in others
        if file.read_bytes() != entry.read_bytes()
    ]
    files = [f for folder in (conf, *config_folders(arguments)) for f in sorted(folder.glob("*/*.yaml"))]
    for file in (entry, *files):
        if file == entry or file.parent.name in groups:
            try:
                yaml_keys(file)
            except ValueError as error:
                mistakes.append(f"{file}: {error}; mend it or move it away")
    return mistakes


def _parsed(arguments: Sequence[str]) -> list[Override]:
    """The overrides among the arguments, but for deletions and what Hydra cannot read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, found = OverridesParser.create(), []
    for argument in arguments:
        if "=" in argument and not argument.startswith(("-", "~")):
            with suppress(HydraException):
                found.append(parser.parse_override(argument))
    return found


def _names(override: Override, groups: Groups) -> list[str]:
    """The choices that an override of a group names, those too that a pattern takes."""
    from hydra.core.override_parser.types import Glob

    if isinstance(value := override.value(), Glob):
        return [str(name) for name in value.filter(sorted(groups.get(override.key_or_group, ())))]
    given = ("null" if v is None else getattr(v, "text", v) for v in _given(override))
    return [name for name in given if isinstance(name, str)]


def _given(override: Override) -> list[Any]:
    """The values that an override gives: several where it is swept."""
    from hydra.core.override_parser.types import ChoiceSweep, Transformer

    value = override.value()
    return list(override.sweep_iterator(Transformer.identity)) if isinstance(value, ChoiceSweep) else [value]


def _no_text(override: Override) -> str | None:
    """What to do about a choice that is read as a number, true or false, of which Hydra takes none; or None."""
    if not any(isinstance(v, int | float) for v in _given(override)):
        return None
    return f"{override.input_line}: is read as no text, so no choice can be called so; rename its file"


def _in_brackets(override: Override) -> str | None:
    """What to write for choices of a group in brackets, of which Hydra would merge all into one; or None."""
    given = _given(override)
    if not any(isinstance(v, list) for v in given):
        return None
    names = [str(getattr(n, "text", n)) for v in given for n in (v if isinstance(v, list) else [v])]
    if override.key_or_group == "sweep" and len(names) > 1:
        return f"{override.input_line}: {ONE_SWEEP}"
    return f"{override.input_line}: write {override.input_line.partition('=')[0]}={','.join(names)}"


def _cut(override: Override) -> str | None:
    """What to write for a sentence that its commas would cut into several values, or None."""
    key, _, value = override.input_line.partition("=")
    if " " not in value or re.search(r"['\"(]", value) or not override.is_sweep_override():
        return None
    quoted = shlex.quote(f"{key}={_text(value)}")
    return f"{override.input_line}: is cut at its commas; write {quoted}, and of several texts quote each"


def _at_home(key: str, value: Any) -> str | None:
    """What to write for a path below `~`, which shells alone read, and not in quotes; or None."""
    path = str(getattr(value, "text", value))
    return f'write "{key}=$HOME{path[1:]}"' if f"{path}/".startswith("~/") else None


def misspelt(arguments: Sequence[str], conf: Path) -> list[str]:
    """One line for each group, choice or knob on the command line that does not exist, and for what would be another
    grid than was meant, or none."""
    overrides, groups, top = _parsed(arguments), groups_of(arguments, conf), _keys_of_all(conf)
    if others := [o.input_line for o in overrides if o.key_or_group == "hydra.mode" and o.value() != "MULTIRUN"]:
        return [f"{line}: leave it out; a single cell is a grid too" for line in others]
    if {*map(_flag, arguments)} & {*COMPLETION}:
        return []  # what follows is what a shell asks
    if strange := [a for a in arguments if a.startswith("-") and not _is_option(_flag(a))]:
        return [f"no such option {a}{nearest(a, [*OPTIONS, '--dry-run'])} {HELP}" for a in strange]
    if "--experimental-rerun" in map(_flag, arguments):
        return ["--experimental-rerun: knows no grids; give the run's own command again"]
    if "--resolve" in arguments and not {*map(_flag, arguments)} & {*CFG, "--help", "-h"}:
        return ["--resolve: fills in the values that --cfg prints; write --cfg job --resolve"]
    of_cells = _in_cells(arguments, groups)
    chosen = [o for o in of_cells if o.key_or_group in groups]
    mistakes = [line for o in chosen for line in (_in_brackets(o), _no_text(o)) if line]
    mistakes += [line for o in of_cells if o.key_or_group in SENTENCES and (line := _cut(o))]
    mistakes += [
        f"{o.input_line}: is a folder called ~ here; {mend}"
        for o in overrides
        if o.key_or_group in FOLDERS and (mend := _at_home(o.key_or_group, o.value()))
    ]
    own = not any(o.key_or_group == "hydra/launcher" for o in overrides)  # another launcher's jobs read some of them
    mistakes += [
        f"{o.input_line}: has no effect; {use}"
        for o in overrides
        for key, use in ELSEWHERE.items()
        if f"{o.key_or_group}.".startswith(f"{key}.") and (own or key == "hydra.run.dir")
    ]
    searched = _searched(overrides)
    mistakes += [f"hydra.searchpath={p}: no such folder" for p in searched if (f := _folder(p)) and not f.is_dir()]
    if not all(map(_folder, searched)):
        return mistakes  # choices may stand in a package
    top |= {str(key) for tree in _sweeps(overrides, groups) for key in tree}
    for override in overrides:
        key, plain = override.key_or_group, not override.input_line.startswith("+")
        group = key.partition(".")[0]
        if "/" in key or group == "hydra":
            continue
        if key in groups:
            names = _names(override, groups)
            known = list(groups[key])
            mistakes += [f"{key}={n}: no such choice{nearest(n, known)} {HELP}" for n in names if n not in known]
            if key == "sweep" and len(names) > 1:
                mistakes.append(f"{override.input_line}: {ONE_SWEEP}")
        elif group in groups:
            knobs = set().union(*map(_keys, groups[group].values()))
            asked = key if plain else ".".join(key.split(".")[:2])  # what is added deeper may have a name of its own
            if (plain or group in CLOSED) and asked not in knobs:
                mistakes.append(f"{key}: no such knob{nearest(key, sorted(knobs))} {HELP}")
        elif key == GATE:
            use = f"use python -m harness.check RUN --baseline FILE --rules {override.value()}"
            mistakes.append(f"{override.input_line.lstrip('+')}: rules of the release gate; {use}")
        elif key not in top and not any(f"${{{key}}}" in argument for argument in arguments):
            mistakes.append(f"{key}: no such group or key{nearest(group, sorted({*groups, *top}))} {HELP}")
    return mistakes


def _sweeps(given: Sequence[Override], groups: Groups) -> list[Any]:
    """The sweep files that are named, as trees."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    found: list[Any] = []
    for name in (name for o in given if o.key_or_group == "sweep" for name in _names(o, groups)):
        with suppress(OmegaConfBaseException, KeyError):
            found.append(OmegaConf.load(groups["sweep"][name]))
    return found


def _in_cells(arguments: Sequence[str], groups: Groups) -> list[Override]:
    """The overrides that cells are made of: those of the sweep file, then those of the command line."""
    from omegaconf import OmegaConf

    given = _parsed(arguments)
    swept = [OmegaConf.select(tree, "hydra.sweeper.params") or {} for tree in _sweeps(given, groups)]
    return [*_parsed([f"{k}={v}" for params in swept for k, v in params.items()]), *given]


def _other_than_a_grid(arguments: Sequence[str]) -> bool:
    """Whether Hydra is asked for something else, such as to print a configuration."""
    known = (*CONFIG_DIR, *MULTIRUN)
    return any(a.startswith(("-", "hydra.mode=")) and _flag(a) not in known for a in arguments)


def _is_option(flag: str) -> bool:
    """Whether Hydra has an option of this name, or of one that it begins."""
    return any(name.startswith(flag) for name in OPTIONS) if flag.startswith("--") else flag[:2] in LETTERS


def _flag(argument: str) -> str:
    return argument.partition("=")[0]


def as_grid(arguments: list[str], conf: Path) -> list[str]:
    """The arguments for Hydra to make a grid of. Before the cells it composes one configuration of all that is not
    swept: a knob there needs a choice that has it, so the first of those that cells take is named before them. And it
    is told that it is a grid, for else it takes one that it cannot compose for a job without sweeps; asked for anything
    else, it refuses to be told so. Overrides stand together: argparse takes no two lots of them."""
    pairs = list(pairwise(("", *arguments)))
    if _other_than_a_grid(arguments):
        free = [
            b for a, b in pairs if a not in CONFIG_DIR and b[:1] != "-" and (a[:1] != "-" or "=" in b or b[:1] == "~")
        ]
        first = [] if any("=" not in b and b[:1] != "~" for b in free) else free  # Hydra tells of what is no override
        return [*first, *(a for a in arguments if a not in (*first, *MULTIRUN))]
    given, defaults, groups = _parsed(arguments), _defaults(conf), groups_of(arguments, conf)
    knobs = {o.key_or_group.partition(".")[0] for o in given if "." in o.key_or_group and not o.is_sweep_override()}
    choices = {o.key_or_group: (o, names) for o in _in_cells(arguments, groups) if (names := _names(o, groups))}
    wanted = [(group, *found) for group, found in choices.items() if group in knobs & {*defaults}]
    before = [(f"{group}={names[0]}", o.input_line) for group, o, names in wanted]
    folders = [b for a, b in pairs if {a, _flag(b)} & {*CONFIG_DIR}]
    own = [b for a, b in pairs if b not in MULTIRUN and not {a, _flag(b)} & {*CONFIG_DIR}]
    return [*chain.from_iterable(before), *own, *folders, "--multirun"]


def causes(error: Exception, arguments: Sequence[str], conf: Path) -> list[str]:
    """Why Hydra refuses a command line, a line for each cause, where that can be said better than it does."""
    from hydra.errors import OverrideParseException

    groups = groups_of(arguments, conf)
    if isinstance(error, OverrideParseException):
        return [_unread(error.override, groups)]
    given, printed = _parsed(arguments), _other_than_a_grid(arguments)
    found = [line for o in given if (line := _sign(o, groups, conf))]
    if any(_flag(a) in CFG for a in arguments):
        told = "--cfg prints one cell, so leave out comma lists"
        found += [f"{o.input_line}: {told}" for o in given if o.is_sweep_override()]
    return found + _lacking(given if printed else _in_cells(arguments, groups), groups, conf)


def _unread(argument: str, groups: Groups) -> str:
    """What to write for an argument that is no override: of a suite and a sweep of one name it is the sweep."""
    key, given, value = argument.partition("=")
    if given:
        choices, names = groups.get(key.lstrip("+"), ()), value.split(",")
        quoted = shlex.quote(f"{key}={','.join(map(_text, names if choices else [value]))}")
        mend = f"write {quoted}" if {*names} <= {*choices} else _at_home(key, value)
        several = "give one value, or several with single commas between"
        return f"{argument}: cannot be read; {mend or several + f', or a text as {quoted}' * (not choices)}"
    known = {name: group for group in sorted(groups) for name in groups[group]}
    if not (close := get_close_matches(argument, known, n=1)):
        return f"{argument}: not NAME=VALUE; write GROUP=NAME or GROUP.KEY=VALUE {HELP}"
    sign = "+" if known[close[0]] == "sweep" else ""
    return f"{argument}: not NAME=VALUE; did you mean {sign}{known[close[0]]}={close[0]}?"


def _text(value: str) -> str:
    """A text that Hydra's grammar reads as it stands, where it may be in quotes that a shell's own leave alone."""
    bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    return config_value(bare) if re.search(r"[\\\"]", bare) else f'"{bare}"'


def _sign(override: Override, groups: Groups, conf: Path) -> str | None:
    """What to write for an override with a `+` too many or too few, or None."""
    key, line = override.key_or_group, override.input_line
    bare, default = line.lstrip("+"), key in _defaults(conf)
    if override.package is not None:
        return None
    if line == bare and not default and (key in groups or key in ADDED):
        return f"{line}: write +{line}"
    beside = key in _keys_of_all(conf) - {*ADDED} and not line.startswith("++")  # which sets such a key anew
    return f"{line}: {key} is set already; write {bare}" if line != bare and (default or beside) else None


def _lacking(overrides: Sequence[Override], groups: Groups, conf: Path) -> list[str]:
    """A line for each knob that not all choices have that cells are made of."""
    chosen = {group: [name] for group, name in _defaults(conf).items() if group in groups}
    chosen |= {o.key_or_group: _names(o, groups) for o in overrides if o.key_or_group in chosen}
    found = []
    for key in dict.fromkeys(o.key_or_group for o in overrides if not o.input_line.startswith("+")):
        group, _, knob = key.partition(".")
        if not knob or group not in chosen:
            continue
        keys = {name: _keys(file) for name, file in sorted(groups[group].items())}
        having = [name for name, has in keys.items() if key in has]
        lacking = [n for n in chosen[group] if n in keys and not {key, f"{group}.defaults"} & keys[n]]
        if having and lacking:
            one = [n for n in chosen[group] if n in having] or having[:1]
            found.append(
                f"{key}: {_have(lacking)} no knob {knob!r} ({_have(having)} it); choose {group}={','.join(one)}"
            )
    return found


def unknown_keys(configs: Sequence[DictConfig], conf: Path) -> list[str]:
    """One line for each key of composed configurations that nothing reads, in groups whose keys nothing else checks:
    misspelt in a choice of one's own, or added. One that a value refers to is read, and a profile may have keys for
    choices that are not taken now, if they are like none that it lacks."""
    from omegaconf import OmegaConf

    found = []
    for group in UNCHECKED:
        known = {*OPTIONAL}.union(*map(_keys, (conf / group).glob("*.yaml"))) - {f"{group}.defaults"}
        for config in (c for c in configs if group in c):
            tree: Any = OmegaConf.to_container(config[group])
            of = f" of {group}={tree['name']}" if tree.get("name") else ""
            for path, key, beside in _unknown_in(tree, group, known):
                if re.search(rf"\$\{{[^}}]*\b{re.escape(key)}\b", OmegaConf.to_yaml(config)):
                    continue
                names = {k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == path}
                close = get_close_matches(key, sorted(names - {*beside}), n=1)
                if close or group != "profile":
                    found.append(f"{path}.{key}{of}: no such knob{nearest(key, close or sorted(names))}")
    return found


def _unknown_in(
    tree: Mapping[Any, Any], above: str, known: Collection[str]
) -> Iterator[tuple[str, str, Mapping[Any, Any]]]:
    """Each key that is not known: what it stands below, itself, and with what beside it."""
    for key, value in tree.items():
        path = f"{above}.{key}"
        if path not in known:
            yield above, str(key), tree
        elif isinstance(value, Mapping) and path not in OF_NAMES:
            yield from _unknown_in(value, path, known)


def _have(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'has' if len(names) == 1 else 'have'}"
