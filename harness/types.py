"""The nouns of the harness, as frozen data: what flows from the configuration to the report.

Nothing here imports a heavy library, so that a plan, a ledger or a report costs no import of torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

Json = Any  # what json.dumps takes; a recursive alias buys little and reads badly

RECORD_SCHEMA = 1
GROUPS = ("model", "adaptation", "quantization", "suite", "engine", "measure")  # whose choices make a cell
SIDE = re.compile(
    r"again|curve=[\d.e+-]+"
)  # ends ids of cells beside a grid: the A/A control, a part of a learning curve


def canonical(value: Json) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Json) -> str:
    """The first 16 hex digits of SHA-256 over `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def plain(value: Any) -> Json:
    """Dataclasses, paths, enums, and NumPy's and PyTorch's numbers and arrays as plain JSON values, recursively."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


def finite(value: Json) -> Json:
    """A value without what JSON cannot hold: numbers that are not finite become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def knobs(values: Mapping[str, Json], above: str) -> Iterator[tuple[str, Json]]:
    """The knobs of a part of a configuration by their dotted names, and their values."""
    for key, value in values.items():
        name = f"{above}.{key}"
        if isinstance(value, Mapping):
            yield from knobs(value, name)
        else:
            yield name, value


@dataclass(frozen=True, slots=True)
class Component:
    """One choice of a configuration group: its name, the class that does it, and the knobs of that class."""

    name: str
    target: str
    params: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid, resolved: everything that decides what is built and how it is measured."""

    model: Component
    adaptation: Component
    quantization: Component
    suite: Component
    engine: Component
    measure: Component
    seed: int
    variant: str = ""

    @property
    def id(self) -> str:
        """`model/adaptation/quantization/suite`, the seed when it is not 0, and the variant where single knobs,
        engines or measures were swept (`quantization.bits=8`): for people and file names."""
        parts = [self.model.name, self.adaptation.name, self.quantization.name, self.suite.name]
        parts += [f"seed{self.seed}"] if self.seed else []
        return "/".join([*parts, *([self.variant] if self.variant else [])])


def id_parts(cell_id: str) -> tuple[str, str, str, str, str, str]:
    """Model, adaptation, quantization, suite, seed (`seed1`) and variant of a `Cell.id`, for cells that left no record
    yet. A name of another make is all adaptation."""
    names = cell_id.split("/")
    at = next((i for i in range(4, len(names)) if "=" in names[i] or is_side(names[i])), len(names))
    names, variant = names[:at], "/".join(names[at:])
    seed = names.pop() if len(names) > 4 and names[-1].startswith("seed") else ""
    if len(names) < 4:
        return "", cell_id, "", "", "", ""
    return "/".join(names[:-3]), names[-3], names[-2], names[-1], seed, variant


def is_side(name: str) -> bool:
    """Whether a cell stands beside its grid, by its variant or the end of its id. No other cell's id ends so: see
    `harness.configured`."""
    return SIDE.fullmatch(name.rpartition("/")[2]) is not None


class StepKind(StrEnum):
    """What a step does; the order is the order of a cell's chain."""

    KERNELS = "kernels"
    BASE = "base"
    ADAPT = "adapt"
    QUANTIZE = "quantize"
    QUALITY = "quality"
    LATENCY = "latency"


MEASURED = (StepKind.QUALITY, StepKind.LATENCY)


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work that several cells may share. `preimage` is all that its key is the hash of."""

    kind: StepKind
    key: str
    title: str
    component: Component
    parents: tuple[str, ...]
    preimage: Mapping[str, Json]
    seed: int
    suite: Component | None = None
    engine: Component | None = None
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided 95% interval and how it was found (`wilson`, `bootstrap`, `order statistics`)."""

    low: float
    high: float
    method: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A candidate's quality minus that of one of highest quality, on the same rows, with its 95% interval."""

    delta: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured number. `better` is `higher` or `lower`; `samples` are the raw values it came from, kept
    only where they stand nowhere else (per-row scores stand in `rows.jsonl`)."""

    metric: str
    value: float
    unit: str
    better: str
    n: int
    interval: Interval | None = None
    samples: tuple[float, ...] = ()


class Status(StrEnum):
    """How a cell ended."""

    OK = "ok"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a cell leaves behind: one JSON file, the only input of tables, decisions and reports.

    `reason` says why a cell is not `ok`. `not_measured` maps a measure to why it has no number. `steps` maps
    a step's kind to its key, seconds, size and proof; `environment` is where the measurements were taken.
    """

    schema: int
    id: str
    status: Status
    reason: str
    model: str
    adaptation: str
    quantization: str
    suite: str
    seed: int
    profile: str
    measurements: tuple[Measurement, ...]
    not_measured: Mapping[str, str]
    steps: Mapping[str, Json]
    environment: Mapping[str, Json]
    config: Mapping[str, Json]

    def value(self, metric: str) -> Measurement | None:
        """The measurement of that name, if it was taken."""
        return next((m for m in self.measurements if m.metric == metric), None)

    def params(self, group: str) -> Mapping[str, Json]:
        """The knobs of what was chosen in a group; none where the configuration does not tell."""
        found: Mapping[str, Json] = self.config.get(group, {}).get("params", {})
        return found

    def digest_of(self, kind: str, name: str) -> str:
        """A digest that a step's key rests on, such as `data` of `adapt` or `rows` of `quality`; empty where the record
        has none."""
        return str(self.steps.get(kind, {}).get("preimage", {}).get(name) or "")


def record_from_json(data: Mapping[str, Json]) -> RunRecord:
    """A record from its parsed JSON. Raises `ValueError` for another schema, `KeyError` for a lacking field."""
    if data.get("schema") != RECORD_SCHEMA:
        raise ValueError(f"record schema {data.get('schema')!r}, this version reads {RECORD_SCHEMA}")
    values = {f.name: data[f.name] for f in fields(RunRecord)}
    measurements = measurements_from_json(data["measurements"])
    return RunRecord(**{**values, "status": Status(data["status"]), "measurements": measurements})


def measurements_from_json(data: Sequence[Mapping[str, Json]]) -> tuple[Measurement, ...]:
    """Measurements from their parsed JSON. Raises `KeyError` or `TypeError` for a field that lacks or is unknown."""
    return tuple(
        Measurement(
            **{**m, "interval": Interval(**m["interval"]) if m["interval"] else None, "samples": tuple(m["samples"])}
        )
        for m in data
    )


@dataclass(frozen=True, slots=True)
class Article:
    """One entry of a knowledge base."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """An evaluation row, and the training row, article or told text that gives it away. `kind` is `exact`, `group`
    or `near`; `similarity` is 1 but for near ones."""

    kind: str
    row: str
    source: str
    other: str
    similarity: float = 1.0


@dataclass(frozen=True, slots=True)
class SuiteData:
    """The rows of a suite as plain dictionaries, split. `training_digest` covers what builds see but for the
    instructions, and `evaluation_digest` what scores see, so that new evaluation rows leave trained models standing.
    `scoring_digest` covers how any row is scored: the task, what it and the scorers may read, and the limit of tokens,
    but no row.

    `message_field` and `reply_field` name the two fields that training and prompting use, `asked` what a message is
    called in a prompt ("Email"). `output` is the JSON Schema or Lark grammar of an answer, empty where there is none.
    `told` are the instructions and the system text by what they are called where a leak is told of. `ends` are the
    texts at which lm-eval's `task` ends answers, once it was asked: see `harness.measure.quality.with_ends`.
    Without `evaluation` rows they are those of lm-eval's task, up to `evaluation_limit`. `overlaps` are the exact and
    grouped ones found between evaluation rows and the rest, `leakage` (`fail`, `drop`, `warn`) what was done.
    """

    name: str
    folder: Path
    train: tuple[Mapping[str, Json], ...]
    validation: tuple[Mapping[str, Json], ...]
    evaluation: tuple[Mapping[str, Json], ...]
    knowledge: tuple[Article, ...]
    instructions: str
    system: str
    asked: str
    message_field: str
    reply_field: str
    max_new_tokens: int
    evaluation_limit: int | None
    output: str
    overlaps: tuple[Overlap, ...]
    leakage: str
    training_digest: str
    evaluation_digest: str
    scoring_digest: str = ""
    told: Mapping[str, str] = field(default_factory=dict)
    ends: tuple[str, ...] = ()
    task: str = ""


Progress = Callable[[float, str], None]
WAITS = "waits for another grid"  # what a step says of itself that is not at work yet


@dataclass(frozen=True, slots=True)
class Context:
    """Where a step runs: device (`cpu` or `cuda`), the dtype it computes in, its seed, and whom to tell."""

    device: str
    dtype: str
    seed: int
    progress: Progress = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated text, its token count, and whether it ended by itself (else it hit the limit)."""

    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt as token ids, and the most tokens of its answer. `due` is when its client sends it, in seconds after the
    start; None sends it when a slot falls free (a closed loop of as many clients as there are slots). `key` names the
    request where tokens are drawn: requests of one key and one prompt get one answer."""

    prompt: Sequence[int]
    max_new_tokens: int
    due: float | None = None
    key: int = 0


@dataclass(slots=True)
class Served:
    """An answer: its tokens without the stop token, whether that or a text that ends it came, when it was sent (`due`,
    in an open loop), and when each token arrived, in seconds after the start; the stop token is the last of these
    times."""

    sent: float
    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    times: list[float] = field(default_factory=list)


class Session(Protocol):
    """An artifact loaded by an engine: what quality and latency are measured of. `loaded` is a
    `harness.loading.Loaded`."""

    loaded: Any
    model: Any
    tokenizer: Any

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        progress: Callable[[int], None] = ...,
        ends: Sequence[str] = ...,
        keys: Sequence[int] = ...,
    ) -> list[Completion]:
        """Answers to rendered prompts, greedy unless the engine draws, by `keys`; one that holds one of the texts
        `ends` goes no further, and holds it."""

    def loglikelihood(
        self, pairs: Sequence[tuple[str, str]], progress: Callable[[int], None] = ...
    ) -> list[tuple[float, bool]]:
        """The log probability of each continuation of its prompt, and whether it is the likeliest."""

    def time_tokens(
        self, prompt: str, new_tokens: int, natural: bool = False, ends: Sequence[str] = ...
    ) -> list[float]:
        """Seconds from sending a prompt to each token of its answer: `new_tokens` of them, or, with `natural`, up to
        and with the stop token or the end of one of the texts `ends` if that comes first."""

    def time_batch(self, prompts: Sequence[str], new_tokens: int, read: Callable[[], None] = ...) -> list[float]:
        """Seconds of each step of one batch, the first of which reads the prompts; `read` is called when they
        are read, before any other step is launched."""
