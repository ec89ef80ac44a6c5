"""What a decision is made of: plain frozen data, so that a page can show it and a script can argue with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.statistics import Paired


@dataclass(frozen=True, slots=True)
class Odds:
    """Shares of the joint draws in which a cell holds the limits, is on the Pareto front of those that do (quality,
    p95, memory, cost), and is the best by the policy's own rule. All 0 for a cell without the numbers it needs."""

    feasible: float
    front: float
    best: float


@dataclass(frozen=True, slots=True)
class CostLine:
    """What a cell costs: per 1,000 requests `serving_usd_per_1000 + 1000 * once_usd / volume`.

    Serving is in proportion to dollars an hour over utilization; `once_usd` is training, quantization and labelling,
    of which `labelling_usd` (0 where no price is set) is the part that hardware prices don't move. `basis` says which
    rate was priced: `goodput` meets the service level, `batched` is the rate of full batches. `spread` is how far
    apart serving costs can be and not be told apart, as a share: by the spread of the timed steps, and by how far the
    lowest rate that failed the service level lies above the goodput, and of several seeds by how far these are apart.
    Tokens are means of a request."""

    serving_usd_per_1000: float
    once_usd: float
    basis: str
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    labelling_usd: float = 0.0
    spread: float = 0.0

    def usd_per_1000(self, volume: float, hourly: float = 1.0) -> float:
        """Dollars per 1,000 requests when `volume` requests pay for what is done once; `hourly` times the price of an
        hour of hardware."""
        once = hourly * (self.once_usd - self.labelling_usd) + self.labelling_usd
        return hourly * self.serving_usd_per_1000 + 1000 * once / volume


@dataclass(frozen=True, slots=True)
class HostedLine:
    """What a hosted API asks per 1,000 such requests, and from how many requests on each cell is cheaper (None: it
    never is; 0: it always is)."""

    name: str
    usd_per_1000: float
    date: str
    source: str
    break_even: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Flip:
    """Where another cell is chosen first: with `knob` just on that `side` of `at` (`at` infinity: with any limit),
    which is `told` so rounded that it still is. `now` is None where a limit does not apply yet; `to` is None where no
    cell is left."""

    knob: str
    unit: str
    now: float | None
    at: float
    side: str
    to: str | None
    told: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Rung:
    """A step of the usual way up, and where the team stands with it: `taken`, `next`, `not needed`, `open` (measured,
    and a gain neither shown nor ruled out), `not measured`, or how a cell ended where none of it ended ok."""

    name: str
    state: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`chosen` is None where the evidence does not carry a choice. `sentences` are what to ship, why and how sure,
    and the runner-up or what is missing. `reasons` has a sentence for each cell not chosen; `against_best` is the
    chosen cell compared with the cell of highest quality (None when it is that cell).

    `group` holds the cells that cannot be told apart from the chosen one, it included, simplest first, and
    `confidence` the share of joint draws in which the best is one of them. A recipe judged over several suites or
    seeds stands under the id of its first cell; `judged` has all cells that stand behind it. `notes` say what was not
    counted, and how numbers were combined. Where the evidence carries no choice, `try_first` is the cell that the rule
    would have chosen. `asked` is the cell whose requests `hosted` prices are for."""

    chosen: str | None
    sentences: tuple[str, str, str]
    reasons: Mapping[str, str]
    margin: float
    reference: str | None
    best: str | None = None
    against_best: Paired | None = None
    odds: Mapping[str, Odds] = field(default_factory=dict)
    group: tuple[str, ...] = ()
    confidence: float | None = None
    costs: Mapping[str, CostLine] = field(default_factory=dict)
    hosted: tuple[HostedLine, ...] = ()
    asked: str | None = None
    flips: tuple[Flip, ...] = ()
    ladder: tuple[Rung, ...] = ()
    judged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    try_first: str | None = None
