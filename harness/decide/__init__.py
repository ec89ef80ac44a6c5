"""Which cell to ship, how sure that is, what it costs and what would change it: pure functions of records, rows and a
policy.

    records, rows, policy --facts--> Facts --choose--> the cell to ship
                                       |--odds, flips, ladder--> Decision
"""

from harness.decide.cells import (
    UNQUANTIZED,
    Rows,
    compare,
    compare_seeds,
    curve_of,
    interact,
    memory,
    passes,
    primary,
    quality,
    quality_over_seeds,
    share_of,
    shared_scores,
    simple_first,
)
from harness.decide.costs import break_even
from harness.decide.evidence import not_shares
from harness.decide.facts import Candidate, Facts, Pair, facts
from harness.decide.findings import CostLine, Decision
from harness.decide.odds import pareto
from harness.decide.policy import Policy, policy_of, read_policy
from harness.decide.recipes import as_counted, reference
from harness.decide.rule import choose
from harness.decide.sentences import timed
from harness.decide.verdict import argued, decide

__all__ = [
    "UNQUANTIZED", "Candidate", "CostLine", "Decision", "Facts", "Pair", "Policy", "Rows", "argued", "as_counted",
    "break_even", "choose", "compare", "compare_seeds", "curve_of", "decide", "facts", "interact", "memory",
    "not_shares", "pareto", "passes", "policy_of", "primary", "quality", "quality_over_seeds", "read_policy",
    "reference", "share_of", "shared_scores", "simple_first", "timed",
]  # fmt: skip
