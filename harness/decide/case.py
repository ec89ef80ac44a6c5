"""All that the sentences of a decision speak of, and how two of its cells compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.decide.facts import Candidate, Facts
from harness.decide.policy import COST, P95, QUALITY, Policy
from harness.decide.rule import Judgement, pace_of, score, simple, volume_of
from harness.decide.tables import Scores
from harness.statistics import Paired, paired, paired_over_seeds
from harness.types import RunRecord
from harness.wording import number, plural

MORE_SEEDS = "more seeds, and then more rows, would tell"
COMPARED = 40  # cells of a large grid that are compared in full for their sentences


@dataclass(frozen=True, slots=True)
class Case:
    """All that the sentences speak of; `measured` are the recipes of known quality, whatever they lack or break."""

    rule: Policy
    facts: Facts
    found: Judgement
    cells: Mapping[str, RunRecord]
    names: Mapping[str, str]
    tables: Mapping[str, Scores]
    measured: Sequence[Candidate] = ()

    @property
    def best(self) -> Candidate:
        """The cell of highest quality, where some cell holds the limits."""
        assert self.found.best is not None
        return self.found.best

    @property
    def chosen(self) -> Candidate:
        """The cell chosen, where some cell holds the limits."""
        assert self.found.chosen is not None
        return self.found.chosen

    @property
    def several(self) -> bool:
        """Whether several suites are judged, so that no two cells can be compared row by row as a whole."""
        return len(self.tables) > 1

    def pair(self, c: Candidate, against: Candidate | None = None) -> Paired | None:
        """A candidate against another (the best), in full where a single suite lets it be compared row by row."""
        import numpy as np

        best = against or self.best
        if self.several:
            return None
        (table,) = self.tables.values()
        mine, other = (table.values[:, self.place(x)] for x in (c, best))
        both = (~np.isnan(mine) & ~np.isnan(other)).nonzero()[0]
        if not both.size:
            return None
        groups = [table.groups[n] for n in both]
        a, b = (table.by_seed.get(x.id, {}) for x in (c, best))
        if len(seeds := sorted(a.keys() & b.keys())) > 1:
            return paired_over_seeds([a[s][both] for s in seeds], [b[s][both] for s in seeds], groups)
        return paired(mine[both].tolist(), other[both].tolist(), groups)

    def place(self, c: Candidate) -> int:
        """The place of a candidate, which is its column."""
        return next(n for n, other in enumerate(self.facts.candidates) if other.id == c.id)


def near(case: Case) -> list[Candidate]:
    """The candidates whose comparison with the best the sentences tell: in a large grid, those of highest quality."""
    enough = {c.id for c in (*case.found.good, *case.found.alike)}
    them = sorted((c for c in case.found.holding if c is not case.best), key=lambda c: (-c.quality, *simple(c)))
    beside = [c for c in them if c.id in enough]
    chosen = [c for c in them if c is case.chosen]
    some = [*chosen, *beside[:COMPARED], *them[: max(0, COMPARED - len(beside))]]
    return list({c.id: c for c in some}.values())


def within(rule: Policy) -> str:
    return f"within {100 * rule.margin:g} points of" if rule.margin else "as good as"


def paced(known: Facts, rule: Policy) -> str:
    """From where on timings count as different by the pace alone, which takes more where cells are many."""
    count = plural(len(known.candidates), "cell")
    times = pace_of(known, rule, rule.objective) ** known.apart
    return f"of {count} one counts as ahead of another from about {times:.2f} times on"


def pace_by(known: Facts, rule: Policy) -> str:
    """Where that pace is from."""
    return "as cells that do the same work did" if rule.objective in known.twins else "policy.pace"


def more(pair: Paired, rule: Policy) -> int:
    """The rows that would likely show a difference of the margin; 0 where there are as many already, no margin, or
    several seeds, whose luck no rows make smaller."""
    need = pair.rows_for(rule.margin) if rule.margin and pair.seeds == 1 else 0
    return need if need > pair.n else 0


def value(c: Candidate, case: Case) -> str:
    """What a candidate has of the objective, in words."""
    rule = case.rule
    unit = {COST: "USD", P95: "ms", QUALITY: "share"}[rule.objective]
    return number(abs(score(c, rule, volume_of(case.facts, rule))), unit)
