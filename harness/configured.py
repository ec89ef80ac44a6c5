"""One grid from its configurations: all mistakes told at once, before anything is built."""

from __future__ import annotations

import math
import shlex
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from harness.components import guided, instantiate, seeded, serves
from harness.decide import UNQUANTIZED, Policy, read_policy, simple_first
from harness.environment import detect
from harness.errors import UserError
from harness.files import cannot_listen, cannot_write
from harness.measure.load import faults as faults_of_load
from harness.measure.quality import faults as faults_of_quality
from harness.measure.quality import with_ends
from harness.overrides import unknown_keys
from harness.pricing import priced
from harness.resources import resource
from harness.store import Store
from harness.store.upkeep import REBUILT, builds, occupied_bytes
from harness.suite import load as load_suite
from harness.suites.faults import faults_of_guide, faults_of_output, faults_of_score, faults_of_task
from harness.types import GROUPS, Cell, Component, Json, SuiteData, digest, is_side, plain
from harness.workers import side_by_side

NAMED = GROUPS[:4]  # in a cell's id
T = TypeVar("T")
ONE_FOR_ALL = (
    "policy", "price", "profile", "runner", "store", "store_limit_gb", "curve", "outputs", "sweep_name", "dry_run",
)  # fmt: skip
ASKED = ("folder", "task", "task_file", "eval_file", "eval_rows", "primary")  # of a suite
FREE_DISK_BYTES = 5 * 2**30
EVICTING_BYTES = 2**24  # more than a run's first files and the notes of what is evicted
SEEDS = 2**32  # as many has NumPy


@dataclass(frozen=True, slots=True)
class Grid:
    """A checked grid: cells, what is chosen for all of them, their data, and where things go."""

    cells: tuple[Cell, ...]
    choices: Mapping[str, Json]
    data: Mapping[str, SuiteData]
    store: Store
    run: Path
    workers: int
    fork_server: bool
    step_limit_s: float | None = None
    store_limit_bytes: int | None = None
    trainings: int = 1
    time_again: bool = False


def component(config: Mapping[str, Any]) -> Component:
    """A component from its part of the configuration. Raises `UserError` where a choice has no name."""
    if "name" not in config:
        keys = ", ".join(map(str, config)) or "none"
        raise UserError(f"a choice with the keys {keys} has no `name`; give it that of its file")
    params = {k: v for k, v in config.items() if k not in ("_target_", "name")}
    return Component(str(config["name"]), str(config.get("_target_", "")), params)


def _cells(configs: Sequence[Mapping[str, Any]], overrides: Sequence[Sequence[str]]) -> tuple[Cell, ...]:
    """A cell a configuration; knobs that were swept singly, and choices whose names are in no cell's id, tell cells
    apart. Raises `UserError` for two cells of one id that are not the same: of two choices with one name, one would
    stand for both."""
    common = set.intersection(*(set(o) for o in overrides)) if overrides else set()
    cells: dict[str, Cell] = {}
    for config, own in zip(configs, overrides, strict=True):
        parts = {group: component(config[group]) for group in GROUPS}
        swept = [o.lstrip("+") for o in own if o not in common]
        swept = [o for o in swept if o.partition("=")[0] not in (*NAMED, "seed")]
        cell = Cell(**parts, seed=config["seed"], variant=",".join(swept))
        if is_side(cell.id):  # such as model.id=runs/again, which is a folder all the same with a slash behind it
            cell = replace(cell, variant=f"{cell.variant}/")
        if (other := cells.setdefault(cell.id, cell)) != cell:
            group = next((g for g in GROUPS if getattr(cell, g) != getattr(other, g)), "seed")
            raise UserError(
                f"{group}: two choices that differ have one name, so both would be the cell {cell.id}; give each the "
                f"`name` of its file in conf/{group}/"
            )
    return tuple(cells.values())


def _learning(cells: Sequence[Cell]) -> list[Cell]:
    """The trained, unquantized cells."""
    return [c for c in cells if c.quantization.name in UNQUANTIZED and seeded(c.adaptation)]


def _beside(cells: Sequence[Cell], curve: Sequence[float], control: bool) -> list[Cell]:
    """Cells that are measured beside the grid and are no candidates: each trained, unquantized cell on parts of its
    training rows (`+curve=[0.25,0.5,1.0]`), and the simplest cell evaluated again with the rows batched otherwise."""
    made = []
    for cell in _learning(cells):
        for share in sorted(s for s in set(curve) if s < 1):
            suite = replace(cell.suite, params={**cell.suite.params, "train_share": share})
            made.append(replace(cell, suite=suite, variant=_variant(cell, f"curve={share:g}")))
    if control:
        first = min(cells, key=lambda c: simple_first(c.adaptation.name, c.quantization.name))
        rows = min(first.engine.params.get("batch_size", 2), first.suite.params.get("eval_rows") or 2**31)
        engine = replace(first.engine, params={**first.engine.params, "batch_size": rows // 2 or 2})
        made.append(replace(first, engine=engine, variant=_variant(first, "again")))
    return made


def _variant(cell: Cell, name: str) -> str:
    return f"{cell.variant}/{name}" if cell.variant else name


def _curve(configs: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[str]]:
    """The shares of `+curve=[...]`, and a line where they are none."""
    given = configs[0].get("curve") or []
    shares = given if isinstance(given, list) else [given]
    if all(isinstance(s, int | float) and not isinstance(s, bool) and 0 < s <= 1 for s in shares):
        return [float(s) for s in shares], []
    return [], [f"curve={given}: give shares of the training rows above 0 and up to 1, such as +curve=[0.25,0.5,1.0]"]


def constrained(cells: Sequence[Cell]) -> dict[str, Component]:
    """The suites whose answers are to be kept within a grammar, by the keys of their rows."""
    return {digest(plain(c.suite)): c.suite for c in cells if c.engine.params.get("constrained")}


def _constraints(cells: Sequence[Cell], data: Mapping[str, SuiteData]) -> list[str]:
    """A line for each suite whose answers are to be constrained and that has no grammar, or a bad one, and for each of
    which a part is wanted where lm-eval alone knows the rows."""
    found = []
    for key, suite in constrained(cells).items():
        if key in data and not data[key].output:
            found.append(
                f"engine.constrained: suite {suite.name} has no output_file; name its JSON Schema or grammar there"
            )
        elif key in data:
            found += faults_of_output(data[key], suite)
    parted = {digest(plain(c.suite)): c.suite for c in cells if c.measure.params["quality"].get("part")}
    found += [
        f"measure.quality.part: the rows of suite {suite.name} are known to lm-eval alone; leave it out for this suite"
        for key, suite in parted.items() if key in data and not data[key].evaluation
    ]  # fmt: skip
    return found


def _guides(cells: Sequence[Cell], data: Mapping[str, SuiteData]) -> list[str]:
    """A line for each line of instructions that was left to be written, where an adaptation tells them the model."""
    told = [(rows, c.suite) for c in cells if (rows := data.get(digest(plain(c.suite)))) and guided(c.adaptation)]
    return [line for rows, suite in told for line in faults_of_guide(rows, suite)]


def _unset(configs: Sequence[DictConfig]) -> list[str]:
    """A line for each key that a configuration leaves to the user (`???`) and that was not given."""
    keys = sorted({key for config in configs for key in OmegaConf.missing_keys(config)})
    return [f"{key}: must be given; add {key}=VALUE" for key in keys]


def _counts(config: DictConfig) -> list[str]:
    """A line for each number outside the components that is no whole number, too small, or as a seed too large."""
    latency = {
        "rounds": 1,
        "requests": 1,
        "batch_size": 1,
        "output_tokens": 2,
        "batch_tokens": 2,
        "warmup": 0,
        "natural_requests": 0,
        "adapters": 0,
    }
    if type(warmup := OmegaConf.select(config, "measure.latency.warmup")) is int:
        latency["warmup_most"] = max(warmup, 0)
    least = {"seed": 0, **{f"measure.latency.{k}": n for k, n in latency.items()}}
    if OmegaConf.select(config, "runner.workers") is not None:
        least["runner.workers"] = 1
    values = {key: OmegaConf.select(config, key) for key in least}
    more = {"seed": f" and below {SEEDS}", "measure.latency.warmup_most": ", as many as warmup"}
    return [
        f"{key}={value!r}: must be a whole number, {least[key]} or more{more.get(key, '')}"
        for key, value in values.items()
        if type(value) is not int or value < least[key] or (key == "seed" and value >= SEEDS)
    ]


def _asked(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each key by which cells of one suite would be asked otherwise than others: what is asked less wins."""
    first = {values["suite"]["name"]: values["suite"] for values in reversed(configs)}
    return [
        f"suite.{key}: is what is asked, not how to build, and cannot be swept; run once for each, or make each a "
        f"suite (conf/suite/NAME.yaml with name: NAME and defaults: [{name}, _self_])"
        for values in configs
        for key in ASKED
        if values["suite"].get(key) != first[name := values["suite"]["name"]].get(key)
        and values["profile"] == configs[0]["profile"]
    ]


def _needed(config: Mapping[str, Any]) -> list[str]:
    """A line for each key that no grid can do without and that was taken out or emptied."""
    keys = (*GROUPS, "seed", "policy", "price", "profile", "runner", "store", "outputs")
    taken = {key: f"{key}={'null' if config[key] is None else ''}" if key in config else f"~{key}" for key in keys}
    found = [f"{key}: is needed; leave {taken[key]} out" for key in keys if config.get(key) in (None, "")]
    if (profile := config.get("profile")) and profile.get("name") in (None, ""):
        found.append("profile: has no `name`; give it that of its file")
    return found


def _settings(config: DictConfig) -> list[str]:
    """A line for each limit that is neither null nor a number above 0, and for each switch that is neither null nor
    true nor false: `no` is a text, and not false."""
    switches = ("runner.fork_server", "runner.time_again", "profile.aa_control", "dry_run")
    found = []
    for key in ("runner.step_limit_minutes", "store_limit_gb", *switches):
        value = OmegaConf.select(config, key)
        right = isinstance(value, bool) if key in switches else type(value) in (int, float) and 0 < value < math.inf
        if value is not None and not right:
            told = "true, false or null" if key in switches else "a number above 0, or null for no limit"
            found.append(f"{key}={value!r}: must be {told}")
    return found


def _judged(policy: Policy, data: Collection[SuiteData], cells: Sequence[Cell]) -> list[str]:
    """A line for each suite that lacks the score which a policy judges it by, one where it judges none of them, and
    for each service level measured that is not the policy's."""
    judged = [d for d in data if policy.suites is None or policy.suites.get(d.name)]
    names = {d.name for d in data}
    if slips := [
        f"policy.suites: {name} is no suite of this grid; did you mean {near[0]}?"
        for name in sorted({*(policy.suites or {})} - names)
        if (near := get_close_matches(name, sorted(names - {*(policy.suites or {})}), n=1))
    ]:
        return slips
    if data and not judged:
        return [f"policy.suites: {policy.suites} weighs no suite of this grid; give one a weight above 0, or null"]
    score, level = (policy.metric or "").removeprefix("quality/"), policy.service_level
    found = [line for d in judged for line in faults_of_score(d, score, "policy.metric")] if score else []
    loads = [c.measure.params["latency"] for c in cells if serves(c.engine)]
    levels = [load.get("level") for load in loads if load.get("open_requests")]
    if level and not levels:
        found.append(
            "policy.service_level: no load is measured, so it would bar and price nothing; choose engine=graph and a "
            "profile with open_requests, such as standard, or leave it null"
        )
    return found + [
        f"policy.service_level={dict(level)}: load is measured at measure.latency.level={other}; give both the same"
        for other in levels if level and other != level
    ]  # fmt: skip


def _evictable(store: Store, limit_gb: Any) -> int:
    """Bytes that the store's limit frees before a grid begins, if no grid needs them."""
    if type(limit_gb) not in (int, float) or not 0 < limit_gb < math.inf:
        return 0  # none, or told already
    there = [b.folder for b in builds(store)]
    over = occupied_bytes(there) - int(limit_gb * 10**9)
    return max(0, min(over, occupied_bytes(f for f in there if f.parent.name in REBUILT)))


def _room(store: Store, limit_gb: Any, mend: str = "set store=DIR") -> list[str]:
    """A line where the disk has too little room for builds, what the store's limit frees counted where anything can be
    written before it does."""
    free = shutil.disk_usage(next(p for p in (store.root, *store.root.parents) if p.exists())).free
    if free >= FREE_DISK_BYTES or (free >= EVICTING_BYTES and free + _evictable(store, limit_gb) >= FREE_DISK_BYTES):
        return []
    gc = f" (python -m harness.store gc --keep-days 30 --store {shlex.quote(str(store.root))})"
    return [
        f"store {store.root}: {free / 2**30:.1f} GiB free, {FREE_DISK_BYTES / 2**30:.0f} GiB are needed for builds; "
        f"free some{gc if store.root.is_dir() else ''}, or {mend}"
    ]


def _attempt(mistakes: list[str], work: Callable[..., T], *arguments: Any) -> T | None:
    """What `work` gives; where it raises `UserError`, None, and its lines among the mistakes."""
    try:
        made: T = work(*arguments)
    except UserError as error:
        mistakes += error.mistakes
        return None
    return made


def _suites(cells: Sequence[Cell], mistakes: list[str]) -> dict[str, SuiteData]:
    """The rows of each suite of a grid, by its digest; what is wrong with them is added to the mistakes."""
    data: dict[str, SuiteData] = {}
    for key, suite in {digest(plain(c.suite)): c.suite for c in cells}.items():
        if (rows := _attempt(mistakes, load_suite, suite)) is None:
            continue
        data[key] = rows
        faults = _attempt(mistakes, faults_of_score, rows, suite.params["primary"], "suite.primary")
        if faults == [] and (faults := faults_of_task(rows, suite)) == []:
            data[key] = with_ends(rows, suite)
        mistakes += faults or []
    return data


def _components(cells: Sequence[Cell]) -> list[str]:
    """A line for each component that cannot be made, lacks a library, or finds fault with itself."""
    found: list[str] = []
    parts = [part for c in cells for part in (c.model, c.adaptation, c.quantization, c.engine)]
    for part in {digest(plain(p)): p for p in parts}.values():
        if "???" in part.params.values():
            continue  # told already
        if made := _attempt(found, instantiate, part):
            found += made.mistakes() if hasattr(made, "mistakes") else []
    return found


def places(config: Mapping[str, Any], store: Store, run: Path, fork_server: bool, mend: str = "") -> list[str]:
    """A line for each folder that a run writes to and that cannot be written, and for too little room, with how to
    `mend` that where a command has no overrides."""
    of_store = mend or "set store=DIR"
    found = [*store.unwritable(of_store), *_room(store, config.get("store_limit_gb"), of_store)]
    if reason := cannot_write(run):
        found.append(f"output folder {run}: cannot be written ({reason}); {mend or 'set outputs=DIR'}")
    if fork_server and (reason := cannot_listen()):
        found.append(
            f"temporary folder {tempfile.gettempdir()}: steps' processes cannot be reached there ({reason}); "
            f"set TMPDIR to a shorter path{'' if mend else ', or runner.fork_server=false'}"
        )
    return found


def check(configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]], run: Path) -> Grid:
    """Everything that can be seen to be wrong before a model is loaded. Raises `UserError` with all mistakes."""
    environment = detect()
    plains: list[dict[str, Any]] = [OmegaConf.to_container(c, resolve=True) for c in configs]  # type: ignore[misc]
    if gone := [line for values in plains for line in _needed(values)]:
        raise UserError(list(dict.fromkeys(gone)))
    cells = _cells(plains, overrides)
    first = plains[0]
    if shapeless := [
        f"measure.{part}={values['measure'].get(part)!r}: must be keys with values; see conf/measure/default.yaml"
        for values in plains
        for part in ("quality", "latency")
        if not isinstance(values["measure"].get(part), dict)
    ]:
        raise UserError(list(dict.fromkeys(shapeless)))
    curve, bad_curve = _curve(plains)
    mistakes = [*bad_curve, *_asked(plains), *_unset(configs), *unknown_keys(configs, resource("conf"))]
    mistakes += [line for c in configs for line in (*_counts(c), *_settings(c))]
    mistakes += [line for values in plains for line in faults_of_load(values["measure"]["latency"])]
    mistakes += [line for values in plains for line in faults_of_quality(values["measure"]["quality"])]
    data = _suites(cells, mistakes)
    mistakes += _components(cells)
    if min(curve, default=1) < 1 and _attempt(mistakes, _learning, cells) == []:
        mistakes.append("curve: no trained, unquantized cell; add quantization=fp16, and an adaptation such as lora")
    mistakes += _constraints(cells, data)
    mistakes += _attempt(mistakes, _guides, cells, data) or []
    if policy := _attempt(mistakes, read_policy, first["policy"]):
        mistakes += _attempt(mistakes, _judged, policy, data.values(), cells) or []
    mistakes += [
        f"{group}: is one for the whole grid, and cannot be swept; "
        + ("give all shares in brackets, '+curve=[0.25,0.5,1.0]'" if group == "curve" else "run once for each")
        for group in ONE_FOR_ALL
        if any(config.get(group) != first.get(group) for config in plains)
    ]
    price, faults = priced(first["price"], environment)
    store, runner = Store(Path(str(first["store"]))), first["runner"]
    fork_server = environment.device == "cpu" if runner.get("fork_server") is None else bool(runner["fork_server"])
    mistakes += [*faults, *places(first, store, run, fork_server)]
    if mistakes:
        raise UserError(list(dict.fromkeys(mistakes)))
    cells = (*cells, *_beside(cells, curve, bool(first["profile"].get("aa_control"))))
    for cell in cells:
        if (key := digest(plain(cell.suite))) not in data:
            data[key] = load_suite(cell.suite)
    choices = {"policy": first["policy"], "price": price, "profile": first["profile"]["name"]}
    workers, trainings = side_by_side(cells, environment, runner.get("workers"))
    minutes, gigabytes = runner.get("step_limit_minutes"), first.get("store_limit_gb")
    return Grid(
        cells, choices, data, store, run, workers, fork_server, minutes and minutes * 60.0,
        gigabytes and int(gigabytes * 10**9), trainings, bool(runner.get("time_again")),
    )  # fmt: skip
