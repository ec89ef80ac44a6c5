"""Which cell to ship, how sure that is, what it costs and what would change it: pure functions of records, rows and a
policy.

    records, rows, policy --gathered--> Facts --choose--> the cell to ship
                                       |--odds, flips, ladder--> Decision
"""

from harness.decide.cells import (
    UNQUANTIZED,
    Rows,
    compare,
    compare_seeds,
    compression,
    curve_of,
    interact,
    is_quantized,
    kin,
    memory,
    parent_of,
    passes,
    primary,
    quality,
    quality_over_seeds,
    share_of,
    shared_scores,
    simple_first,
    variant,
)
from harness.decide.costs import GOODPUT, break_even, goodput
from harness.decide.evidence import not_shares
from harness.decide.facts import Candidate, Facts
from harness.decide.findings import CostLine, Decision
from harness.decide.odds import pareto
from harness.decide.policy import COST, P95, Policy, policy_of, read_policy
from harness.decide.recipes import as_counted, basis_of, beside, reference, weights_of
from harness.decide.rule import ahead, choose
from harness.decide.sentences import batched, fullest, timed
from harness.decide.twins import twins_of
from harness.decide.verdict import argued, decide
from harness.types import Pair

__all__ = [
    "COST", "GOODPUT", "P95", "UNQUANTIZED", "Candidate", "CostLine", "Decision", "Facts", "Pair", "Policy", "Rows",
    "ahead", "argued", "as_counted", "basis_of", "batched", "beside", "break_even", "choose", "compare",
    "compare_seeds", "compression", "curve_of", "decide", "fullest", "goodput", "interact", "is_quantized", "kin",
    "memory", "not_shares", "parent_of", "pareto", "passes", "policy_of", "primary", "quality", "quality_over_seeds",
    "read_policy", "reference", "share_of", "shared_scores", "simple_first", "timed", "twins_of", "variant",
    "weights_of",
]  # fmt: skip
