"""What a candidate may lose: `conf/check/*.yaml`, read into frozen data with every mistake told at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import yaml_keys
from harness.resources import resource
from harness.wording import nearest


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores from 0 to 1 that are compared row by row; a drop below `margin` is tolerated."""

    scores: tuple[str, ...]
    margin: float
    blocks: bool


@dataclass(frozen=True, slots=True)
class Length:
    """The mean length of answers lies between `low` and `high` times the baseline's."""

    low: float
    high: float
    blocks: bool


@dataclass(frozen=True, slots=True)
class Latency:
    """`noise` is how many times as slow a whole run may be with nothing changed, `limit` what must be ruled out."""

    metrics: tuple[str, ...]
    noise: float
    limit: float
    blocks: bool

    @property
    def factor(self) -> float:
        """From where a ratio is nearer to the limit than to noise: their geometric mean."""
        return math.sqrt(self.noise * self.limit)


@dataclass(frozen=True, slots=True)
class Limit:
    """Single numbers: at most `limit` times the baseline's."""

    metrics: tuple[str, ...]
    limit: float
    blocks: bool


@dataclass(frozen=True, slots=True)
class Budget:
    """How many parts the rows come in, with a look after each."""

    looks: int


@dataclass(frozen=True, slots=True)
class Rules:
    """One file of `conf/check`. `alpha` is the chance of a false alarm in the whole gate where nothing changed, and
    that of each metric to pass at the very edge of its margin. `inconclusive` is `block` or `warn`."""

    name: str
    alpha: float
    inconclusive: str
    quality: Scores
    validity: Scores
    length: Length
    latency: Latency
    memory: Limit
    size: Limit
    budget: Budget


SECTIONS: Mapping[str, Any] = {
    "quality": Scores, "validity": Scores, "length": Length, "latency": Latency, "memory": Limit, "size": Limit,
    "budget": Budget,
}  # fmt: skip
METRICS: Mapping[str, Sequence[str]] = {  # those of which less is better
    "latency": ("ttft_ms", "e2e_ms", "e2e_natural_ms"),
    "memory": [f"memory_bytes/{n}" for n in (
        "cuda_peak_process", "cuda_peak_reserved", "cuda_peak_allocated", "cuda_peak_loading", "nvml_process",
        "peak_rss", "peak_rss_loading", "peak_prefill", "peak_decode")],
    "size": ("disk_bytes", "weights_bytes", "kv_bytes_per_token"),
}  # fmt: skip
RANGES = {  # the least and the most of a number; alpha lies above its least
    "alpha": (0.0, 0.5), "margin": (0.0, 1.0), "low": (0.0, 1.0), "high": (1.0, math.inf), "noise": (1.0, math.inf),
    "limit": (1.0, math.inf), "looks": (1, 20),
}  # fmt: skip


def find(name: str) -> Path:
    """A rules file: a path, or a name in `conf/check` here or as packaged. Raises `UserError` where there is none."""
    folders = [Path("conf/check"), resource("conf") / "check"]
    given = Path(name)
    for path in (given, *(folder / f"{name}.yaml" for folder in folders)):
        if path.is_file():
            return path
    known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
    raise UserError(f"--rules {name}: no such file, and not in conf/check; there is {', '.join(known)}")


def load(name: str, changes: Sequence[str] = ()) -> Rules:
    """The rules of a file with `KEY=VALUE` changes; what it leaves out is as in the packaged `default.yaml`. Raises
    `UserError` with a line a mistake."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = find(name)
    keys, set_anew = _changed(changes)
    try:
        usual = yaml_keys(resource("conf") / "check" / "default.yaml")
        own = {"name": path.stem, **_whole(yaml_keys(path))}
        merged = OmegaConf.merge(usual, own, *set_anew)
        values = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}; see conf/check/default.yaml") from error
    assert isinstance(values, dict)
    made = read(values, str(path), keys)
    return replace(made, name=f"{made.name}{' with ' if changes else ''}{', '.join(changes)}")


def _whole(tree: Any) -> Any:
    """Keys of OmegaConf's, each with a value. Raises `ValueError` for `???`, which would change nothing."""
    from omegaconf import OmegaConf

    def lacking(node: Any, at: str = "") -> list[str]:
        if isinstance(node, Mapping):
            return [name for key, below in node.items() for name in lacking(below, f"{at}.{key}".lstrip("."))]
        return [at] if node == "???" else []

    if names := lacking(OmegaConf.to_container(tree, resolve=False)):
        raise ValueError(f"{', '.join(names)}: ??? is no value")
    return tree


def _changed(changes: Sequence[str]) -> tuple[list[str], list[Any]]:
    """The keys that `--set` names, and each with its value. Raises `UserError` for what is no such change."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = [f.name for f in fields(Rules)] + [f"{n}.{f.name}" for n, kind in SECTIONS.items() for f in fields(kind)]
    keys: list[str] = []
    made: list[Any] = []
    mistakes: list[str] = []
    for change in changes:
        key, sign, _ = change.partition("=")
        if not sign:
            mistakes.append(f"--set {change}: give KEY=VALUE, such as quality.margin=0.03")
        elif key not in known:
            mistakes.append(f"--set {key}: no such key{nearest(key, known)}")
        try:
            keys.append(key)
            made.append(_whole(OmegaConf.from_dotlist([change])))
        except (OmegaConfBaseException, ValueError, TypeError, yaml.YAMLError) as error:
            mistakes.append(f"--set {change}: cannot be read ({' '.join(str(error).split())}); give a plain value")
    if mistakes:
        raise UserError(mistakes)
    return keys, made


def read(values: Mapping[Any, Any], path: str, changed: Collection[str] = ()) -> Rules:
    """Rules from plain values. Each mistake names the file, or the key that a command line `changed`."""
    mistakes: list[str] = []

    def where(key: str) -> str:
        return f"--set {key}:" if key in changed else f"{path}: {key}"

    top = _known(values, Rules, where, "", mistakes)
    made: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        if name not in top:
            continue
        if not isinstance(top[name], Mapping):
            mistakes.append(f"{where(name)} is {top[name]!r}; give its keys as in conf/check/default.yaml")
            continue
        made[name] = found = _known(top[name], kind, where, f"{name}.", mistakes)
        if name in METRICS and isinstance(found.get("metrics"), tuple):
            others = [m for m in found["metrics"] if m not in METRICS[name]]
            mistakes += [f"{where(f'{name}.metrics')} has no metric {m}{nearest(m, METRICS[name])}" for m in others]
    if top.get("inconclusive") not in ("block", "warn"):
        mistakes.append(f"{where('inconclusive')} is {top.get('inconclusive')!r}; give block or warn")
    latency = made.get("latency", {})
    if not mistakes and latency["limit"] <= latency["noise"]:
        told = ("latency.limit", "above latency.noise"), ("latency.noise", "below latency.limit")
        key, side = next((t for t in told if t[0] in changed), told[0])
        mistakes.append(f"{where(key)} must lie {side}, or nothing could ever pass")
    if mistakes:
        raise UserError(mistakes)
    sections = {name: kind(**made[name]) for name, kind in SECTIONS.items()}
    return Rules(str(top["name"]), float(top["alpha"]), top["inconclusive"], **sections)


def _known(
    values: Mapping[Any, Any], kind: Any, where: Callable[[str], str], above: str, mistakes: list[str]
) -> dict[str, Any]:
    """The keys of a dataclass, checked: none unknown, none lacking, each of its kind and in its range."""
    names = [f.name for f in fields(kind)]
    mistakes += [
        f"{where(f'{above}{key}')}: unknown key; known are {', '.join(above + n for n in names)}"
        for key in values
        if key not in names
    ]
    found: dict[str, Any] = {}
    for name in names:
        if name not in values:
            mistakes.append(f"{where(above + name)} is missing; see conf/check/default.yaml")
            continue
        value = values[name]
        if fault := _fault(name, value):
            mistakes.append(f"{where(above + name)} is {value!r}; {fault}")
        found[name] = tuple(value) if isinstance(value, list) else value
    return found


def _fault(name: str, value: Any) -> str | None:
    """What is wrong with a value, or None."""
    if name == "blocks" and not isinstance(value, bool):
        return "give true or false"
    if name in ("scores", "metrics") and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        return "give a list of names"
    if name in RANGES:
        low, high = RANGES[name]
        right = isinstance(value, int if name == "looks" else int | float) and not isinstance(value, bool)
        if not right or not math.isfinite(value) or not low <= value <= high or (value == low and name == "alpha"):
            return f"give a number from {low:g} to {high:g}"
    return None
