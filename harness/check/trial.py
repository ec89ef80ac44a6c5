"""The nouns of a judgement: what is asked of a metric, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.check.rules import Rules
from harness.statistics import Paired


class Verdict(StrEnum):
    """What is known of a metric: shown to be good enough, shown to be worse, neither, or nothing."""

    PASS = "pass"
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "could not measure"


@dataclass(frozen=True, slots=True)
class Trial:
    """One metric of one cell before it is judged. `p_worse` is the one-sided p of "not worse than the baseline", small
    where worse is shown; `p_within` that of "beyond what is tolerated", small where good enough is shown. `sure` is a
    verdict that needs no test, such as that of a size. `by_rows` says that more rows would make it surer, `same` that
    every answer is the same text and measures the same. `spared`: nobody named it and only some rows have it; where
    those are too few ever to pass, it blocks only where it is shown to be worse. `low` and `high` are the 90% interval
    of `change`, which is a difference of shares or a ratio (`unit`: `points`, `×`)."""

    cell: str
    metric: str
    blocks: bool
    unit: str
    before: float = float("nan")
    after: float = float("nan")
    change: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p_worse: float = 1.0
    p_within: float = 1.0
    sure: Verdict | None = None
    by_rows: bool = False
    same: bool = False
    spared: bool = False
    note: str = ""
    tolerated: str = ""
    pair: Paired | None = None
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A judged metric. `p` is the p of its regression, corrected for all that was asked."""

    trial: Trial
    verdict: Verdict
    p: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Flip:
    """A row whose scores changed: those it lost, those it gained, and what was answered, where that is kept."""

    cell: str
    row: str
    case: str
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    message: str | None
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """All findings, the rows that flipped, what else is to be said, and the exit code: 0, 1 or 3. `share` is how many
    of the rows were looked at (1: all), `against` the baseline's cell where it is named otherwise than the candidate's,
    `baseline_digest` that of a baseline file."""

    candidate: str
    baseline: str
    rules: Rules
    findings: tuple[Finding, ...]
    flips: tuple[Flip, ...]
    notes: tuple[str, ...]
    exit_code: int
    share: float = 1.0
    against: str = ""
    baseline_digest: str = ""

    def having(self, verdict: Verdict, blocks: bool | None = None) -> Sequence[Finding]:
        """The findings of one verdict; of blocking or told metrics alone where asked."""
        return [f for f in self.findings if f.verdict is verdict and blocks in (None, f.trial.blocks)]
