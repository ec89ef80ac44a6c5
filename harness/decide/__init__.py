"""Which cell to ship, how sure that is, what it costs and what would change it: pure functions of records, rows and a
policy."""

from harness.decide.facts import Candidate, Facts, Pair
from harness.decide.findings import CostLine, Decision, Flip, HostedLine, Odds, Rung
from harness.decide.verdict import (
    UNQUANTIZED,
    Policy,
    compare,
    decide,
    interact,
    memory,
    primary,
    quality,
    read_policy,
    reference,
    shared_scores,
    simple_first,
)

__all__ = [
    "UNQUANTIZED",
    "Candidate",
    "CostLine",
    "Decision",
    "Facts",
    "Flip",
    "HostedLine",
    "Odds",
    "Pair",
    "Policy",
    "Rung",
    "compare",
    "decide",
    "interact",
    "memory",
    "primary",
    "quality",
    "read_policy",
    "reference",
    "shared_scores",
    "simple_first",
]
