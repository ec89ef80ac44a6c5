"""The data card: what builds saw, what they were asked and the base model, each with its source, licence and digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.report.text import NONE, shorten
from harness.runs import Run, model_name
from harness.types import Json

SEEN = (("training", "training rows"), ("validation", "validation rows"), ("articles", "articles"))
DIGESTS = 3  # told of one kind: parts of a learning curve have their own
QUOTED = 300  # characters of a card
NOT_STATED = "not stated"


def data_card(run: Run, suite: str, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """A line for what builds see, for the evaluation rows, and for each base model."""
    cells = [r for r in run.records.values() if r.suite == suite]
    counts = found["rows"]
    source, licence = (shorten(found.get(k) or NOT_STATED, most=QUOTED) for k in ("source", "licence"))
    seen = ", ".join(f"{n:,} {what}" for k, what in SEEN if isinstance(n := counts.get(k), int))
    lines = [
        _line("What builds see", seen, source, licence, (r.digest_of("adapt", "data") for r in cells)),
        _line("Evaluation rows, with their scorers", f"{counts['evaluation']:,} rows", source, licence,
              (r.digest_of("quality", "rows") for r in cells)),
    ]  # fmt: skip
    bases: dict[tuple[str, str, str], list[str]] = {}
    for r in (r for r in cells if "base" in r.steps):
        facts: Mapping[str, Json] = r.steps["base"].get("facts") or {}
        source, licence = (shorten(facts.get(k) or NOT_STATED, most=QUOTED) for k in ("source", "licence"))
        bases.setdefault((model_name(r), source, licence), []).append(str(r.steps["base"].get("key", "")))
    return [*lines, *(_line(f"Base model {n}", "", s, li, keys) for (n, s, li), keys in bases.items())]


def _line(what: str, rows: str, source: str, licence: str, digests: Iterable[str]) -> dict[str, str]:
    own = sorted({d for d in digests if d})
    more = f" and {len(own) - DIGESTS} more" if len(own) > DIGESTS else ""
    told = ", ".join(own[:DIGESTS]) + more
    return {"what": what, "rows": rows or NONE, "source": source, "licence": licence, "digest": told or NONE}
