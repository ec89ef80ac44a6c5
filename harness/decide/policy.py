"""What counts: hard limits first, then one objective among the cells that are good enough."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from harness.errors import UserError
from harness.statistics import PACE
from harness.types import Json, RunRecord

COST, P95, QUALITY = "cost_usd_per_1000", "e2e_ms/p95", "quality"
OBJECTIVES = {COST: "cost per 1,000 requests", P95: "p95 response time", QUALITY: "quality"}
LEVEL = ("ttft_ms", "token_ms", "share")
NUMBERS = (  # key, highest, may be null
    ("margin", 1.0, False),
    ("min_quality", 1.0, True),
    ("min_valid", 1.0, True),
    ("max_p95_e2e_ms", math.inf, True),
    ("max_memory_bytes", math.inf, True),
)


@dataclass(frozen=True, slots=True)
class Policy:
    """`metric` is the score judged (None: the suite's own primary score); limits of None do not apply.

    `min_valid` is the least share of valid outputs: `valid_metric` where a suite has that score, else the share that
    was not cut off. `volume_requests` pay for what is done once (None: the volume that the prices name). A goodput
    counts only if it was measured at `service_level` (None: whichever it was measured at), and what was seen to hold
    that at no rate is out. `suites` weighs the suites of a run (None: all alike); one of weight 0 or without a weight
    is not judged. `pace` is how many times as slow a whole timing may be with nothing changed.
    """

    objective: str
    name: str = "policy"
    metric: str | None = None
    min_quality: float | None = None
    max_p95_e2e_ms: float | None = None
    max_memory_bytes: float | None = None
    min_valid: float | None = None
    valid_metric: str | None = None
    margin: float = 0.05
    volume_requests: float | None = None
    service_level: Mapping[str, float] | None = None
    suites: Mapping[str, float] | None = None
    pace: float = PACE


def read_policy(values: Mapping[str, Json]) -> Policy:
    """The policy of a `conf/policy/*.yaml`; raises `UserError` with a line for each unknown key or bad value."""
    known = {f.name for f in fields(Policy)}
    name = values.get("name", "policy")
    mistakes = [
        f"policy {name}: unknown key {key!r}; known are {', '.join(sorted(known))}"
        for key in values
        if key not in known
    ]
    if values.get("objective") not in tuple(OBJECTIVES):  # of any type
        given = f"objective {values['objective']!r}" if "objective" in values else "objective is missing"
        mistakes.append(f"policy {name}: {given}; choose {', '.join(OBJECTIVES)}")
    for key, top, nullable in NUMBERS:
        value = values.get(key, 0.0)
        if not (_number(value) and 0 <= value <= top) and not (value is None and nullable):
            what = "a share from 0 to 1" if top == 1 else "a number of 0 or more"
            mistakes.append(f"policy {name}: {key} {value!r}; give {what}{' or null' if nullable else ''}")
    mistakes += [
        f"policy {name}: {key} {values[key]!r}; give a score of the suite or null"
        for key in ("metric", "valid_metric")
        if values.get(key) is not None and not isinstance(values[key], str)
    ]
    volume = values.get("volume_requests")
    if volume is not None and not (_number(volume) and 0 < volume < math.inf):
        mistakes.append(f"policy {name}: volume_requests {volume!r}; give a number above 0 or null")
    level = values.get("service_level")
    if level is not None and not (
        isinstance(level, Mapping) and set(level) == set(LEVEL)
        and all(_number(v) and 0 < v < math.inf for v in level.values()) and level["share"] <= 1
    ):  # fmt: skip
        mistakes.append(
            f"policy {name}: service_level {level!r}; give {', '.join(LEVEL)}, each above 0 and the share up to 1, or "
            "null"
        )
    weights = values.get("suites")
    if weights is not None and not (
        isinstance(weights, Mapping) and all(_number(v) and 0 <= v < math.inf for v in weights.values())
        and sum(weights.values())
    ):  # fmt: skip
        mistakes.append(f"policy {name}: suites {weights!r}; give suite names with weights of 0 or more, or null")
    pace = values.get("pace", PACE)
    if not (_number(pace) and 1 <= pace < math.inf):
        mistakes.append(f"policy {name}: pace {pace!r}; give a number of 1 or more")
    if mistakes:
        raise UserError(mistakes)
    return Policy(**values)


def policy_of(records: Iterable[RunRecord]) -> Policy:
    """The policy that records were taken under: the first that names one, else quality alone. Raises `UserError` where
    it cannot be read."""
    return read_policy(next((r.config["policy"] for r in records if r.config.get("policy")), {"objective": "quality"}))


def _number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
