"""The data card: what builds saw, what they were asked and the base model, each with its source, licence and digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.report.run import Run
from harness.report.text import NONE, shorten
from harness.types import Json

SEEN = (("training", "training rows"), ("validation", "validation rows"), ("articles", "articles"))
DIGESTS = 3  # told of one kind: parts of a learning curve have their own
QUOTED = 300  # characters of a card
NOT_STATED, NOT_KEPT = "not stated", "not kept by this run"


def data_card(run: Run, suite: str, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """A line for what builds see, for the evaluation rows, and for each base model."""
    cells = [r for r in run.records.values() if r.suite == suite]
    counts = found["rows"]
    folder = next((f for r in cells if (f := r.params("suite").get("folder"))), suite)
    if "licence" in found:
        source, licence = (shorten(found.get(k) or NOT_STATED, most=QUOTED) for k in ("source", "licence"))
    else:  # of a version that kept neither
        source = licence = f"{NOT_KEPT}; see card.md of the suite {folder}"
    seen = ", ".join(f"{n:,} {what}" for k, what in SEEN if isinstance(n := counts.get(k), int))
    lines = [
        _line("What builds see", seen, source, licence, (r.digest_of("adapt", "data") for r in cells)),
        _line("Evaluation rows, with their scorers", f"{counts['evaluation']:,} rows", source, licence,
              (r.digest_of("quality", "rows") for r in cells)),
    ]  # fmt: skip
    for model in dict.fromkeys(r.model for r in cells):
        steps = [r.steps["base"] for r in cells if r.model == model and "base" in r.steps]
        facts: Mapping[str, Json] = next((f for s in steps if (f := s.get("facts"))), {})
        source, licence = (
            shorten(facts[k] or NOT_STATED, most=QUOTED) if k in facts else NOT_KEPT for k in ("source", "licence")
        )
        lines.append(_line(f"Base model {model}", "", source, licence, (str(s.get("key", "")) for s in steps)))
    return lines


def _line(what: str, rows: str, source: str, licence: str, digests: Iterable[str]) -> dict[str, str]:
    own = sorted({d for d in digests if d})
    more = f" and {len(own) - DIGESTS} more" if len(own) > DIGESTS else ""
    told = ", ".join(own[:DIGESTS]) + more
    return {"what": what, "rows": rows or NONE, "source": source, "licence": licence, "digest": told or NONE}
