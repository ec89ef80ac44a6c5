"""What the page's script chooses with: the same facts, policy and prices that `harness.decide.choose` gets.

`reports/choose.js` writes that rule a second time; a browser test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.decide import Facts, Policy
from harness.report.run import Run
from harness.types import plain


def choosing(run: Run, rule: Policy, found: Facts | None) -> Mapping[str, Any] | None:
    """Facts, policy and the price of an hour as plain data; None before a decision, and where no cell has the numbers
    that a choice needs."""
    if found is None or not found.candidates:
        return None
    prices = [r.config.get("price") or {} for r in run.records.values()]
    hourly = next((p["usd_per_hour"] for p in prices if p.get("usd_per_hour")), None)
    return {"facts": plain(found), "policy": plain(rule), "usd_per_hour": hourly}
