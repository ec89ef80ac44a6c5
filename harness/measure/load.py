"""Latency under load: a closed loop, where so many clients each wait for their answer before they ask again, and an
open one, where requests come when they come, as a service sees them.

An open loop is measured from when a request was due to be sent, so that an engine which falls behind cannot hide it
(Schroeder et al., "Open versus closed", NSDI 2006).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from harness.statistics import quantile_interval
from harness.types import Measurement, Served, Session

SEED = 20_240_101  # of arrivals: the same for every cell, so that all face the same rush
BEGIN = 1.0  # of what a closed loop answers a second, whose answers end one by one
BEGIN_FIXED = 0.7  # and whose answers all end together: its clients then ask together, and are read at once
STEP, STEPS = 1.25, 8  # of the rate, the first and how many, to find one that holds and one that fails
LASTS_LEVELS, LASTS_ANSWERS = 1, 5  # an open loop lasts at least so many first-token limits, and answers
LASTS_MOST = 300.0  # seconds, if so many answers are over by then, though fewer requests have come than asked for
IDLE = 8  # requests that one client asks one by one, to see whether the level can be held at all
CLOSEST = 0.001  # precision of a goodput; between two neighbouring numbers the search would not end
KEPT_UP = 0.97  # the share of the rate asked for at which first tokens must come
NO_LIMIT = 1e9  # ms, the largest that a level may allow: JSON has no infinity
STRETCH = 64  # requests that come at the rate asked for, whatever chance does within them


@dataclass(frozen=True, slots=True)
class Level:
    """A service level: at least `share` of the requests have their first token within `ttft_ms`, and their tokens at
    most `token_ms` apart on average."""

    ttft_ms: float
    token_ms: float
    share: float

    def holds(self, served: Sequence[Served]) -> bool:
        """Whether some answers are within it."""
        return sum(map(self._good, served)) >= self._least(served)

    def reachable(self, served: Sequence[Served]) -> bool:
        """Whether answers to requests that had nothing to wait for are within it, all but one at most."""
        return sum(map(self._good, served)) + 1 >= self._least(served)

    def sustains(self, rate: float, served: Sequence[Served]) -> bool:
        """Whether answers to requests that came at `rate` a second are within it, and begun at that rate too: a short
        rush beyond what an engine carries may be over before its queue is longer than the level allows. What the first
        token of a request that need not wait takes, and what it takes to finish an answer, say nothing of the queue."""
        least = min(s.times[0] - s.sent for s in served)
        seconds = max(s.times[0] for s in served) - min(s.sent for s in served) - least
        return self.holds(served) and len(served) >= KEPT_UP * rate * seconds

    def _least(self, served: Sequence[Served]) -> float:
        return self.share * len(served) - 1e-9  # 0.55 of 100 is 55.00000000000001

    def _good(self, one: Served) -> bool:
        between = (one.times[-1] - one.times[0]) / max(len(one.times) - 1, 1)
        return 1e3 * (one.times[0] - one.sent) <= self.ttft_ms and 1e3 * between <= self.token_ms


def faults(knobs: Mapping[str, Any]) -> list[str]:
    """A line for each knob of a load that makes no sense or is missing."""

    def whole(value: Any, least: int) -> bool:
        return type(value) is int and value >= least

    found = []
    clients, precision, level = (knobs.get(name) for name in ("clients", "precision", "level"))
    if not isinstance(clients, list) or not all(whole(c, 1) for c in clients) or len({*clients}) < len(clients):
        found.append(f"clients={clients!r}: give whole numbers of 1 or more, each once, such as [1, 8, 32]")
    for name, least in (("requests_per_client", 1), ("open_requests", 0)):
        if not whole(knobs.get(name), least):
            found.append(f"{name}={knobs.get(name)!r}: must be a whole number, {least} or more")
    if knobs.get("adapters") == 1:
        found.append("adapters=1: they are served side by side; give 2 or more, or 0")
    if isinstance(precision, float) and 0 < precision < CLOSEST:
        found.append(f"precision={precision!r}: must be {CLOSEST} or more, closer no loop can tell")
    shares, times = {"precision": precision}, {}
    if isinstance(level, Mapping):
        shares["level.share"] = level.get("share")
        times = {f"level.{name}": level.get(name) for name in ("ttft_ms", "token_ms")}
    else:
        found.append(f"level={level!r}: give ttft_ms, token_ms and share")
    for name, value in {**shares, **times}.items():
        most = 1.0 if name in shares else NO_LIMIT
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            found.append(f"{name}={value!r}: must be a number above 0 and up to {most:g}")
    return [f"measure.latency.{line}" for line in found]


def arrivals(rate: float, requests: int) -> list[float]:
    """When requests of a Poisson process of `rate` a second are due, in seconds after the start. The process is that
    in which each `STRETCH` of them takes as long as the rate says: a loop is too short for chance to even out, and one
    that begins with a rush or ends with one would be of another rate."""
    import numpy

    gaps = numpy.random.default_rng(SEED).exponential(1.0, requests)
    for stretch in (gaps[start : start + STRETCH] for start in range(0, requests, STRETCH)):
        stretch *= len(stretch) / stretch.sum()  # in place
    return [float(t) for t in numpy.cumsum(gaps) / rate]


def summary(name: str, served: Sequence[Served], asked: Sequence[str]) -> list[Measurement]:
    """Quantiles in milliseconds of the time to first token, between tokens and to the last, from when each request was
    sent, and the tokens and requests a second from the first sent to the last answered. A step gives a token to many
    rows at once: its time is theirs, and one event however many they are. So are the answers to one prompt."""
    tokens, prompts = sum(len(s.times) for s in served), len(set(asked))
    parts = {
        "ttft_ms": ([(s.sent, s.times[0]) for s in served], prompts),
        "itl_ms": ([gap for s in served for gap in pairwise(s.times)], tokens),
        "e2e_ms": ([(s.sent, s.times[-1]) for s in served], prompts),
    }
    seconds = max(s.times[-1] for s in served) - min(s.sent for s in served)
    return [
        *(
            m for part, (spans, most) in parts.items() if spans
            for m in quantiles(f"{name}/{part}", [1e3 * (b - a) for a, b in spans], keep=False,
                               events=min(len({(round(a, 3), b) for a, b in spans}), most))
        ),
        Measurement(f"{name}/tokens_per_s", tokens / seconds, "tok/s", "higher", len(served)),
        Measurement(f"{name}/requests_per_s", len(served) / seconds, "req/s", "higher", len(served)),
    ]  # fmt: skip


def quantiles(name: str, samples: Sequence[float], keep: bool = True, events: int | None = None) -> list[Measurement]:
    """p50 and p95 with their intervals; p99 is never printed of a few hundred samples. `keep` has the raw ones stand
    beside p50; `events` is how many of them were seen apart from each other, all unless given."""
    import numpy

    raw = tuple(round(s, 3) for s in samples) if keep else ()
    return [
        Measurement(
            f"{name}/p{q:.0f}", float(numpy.quantile(samples, q / 100)), "ms", "lower", events or len(samples),
            quantile_interval(samples, q / 100, events), raw if q == 50 else (),
        )
        for q in (50, 95)
    ]  # fmt: skip


def goodput(
    run: Callable[[float], Sequence[Served]], first: float, level: Level, precision: float,
    idle: Callable[[], Sequence[Served]],
) -> tuple[float, float | None, Sequence[Served]]:  # fmt: skip
    """The highest rate tried that sustains a service level, the lowest tried that does not (None: none failed), and the
    answers at the former. `run` serves an open loop at a rate; `first` is the rate to begin with. From there the rate
    changes in growing steps until one has held and one has failed, and what lies between is halved (in the logarithm)
    until the latter is at most `precision` above the former. A rate of 0 is that none held, or that not even the
    answers to `idle` requests, one at a time, are within the level, which is asked once the first rate has failed.

    Goodput as of Zhong et al., "DistServe", arXiv 2401.09670.
    """
    held: tuple[float, Sequence[Served]] = (0.0, ())
    failed: float | None = None
    rate, step = first, STEP
    for _ in range(STEPS):
        served = run(rate)
        if level.sustains(rate, served):
            held = rate, served
            rate *= step
        else:
            if failed is None and not held[0] and not level.reachable(idle()):
                return 0.0, rate, ()
            failed = rate
            rate /= step
        if held[0] and failed:
            break
        step *= STEP
    while held[0] and failed and failed > held[0] * (1 + precision):
        rate = (held[0] * failed) ** 0.5
        served = run(rate)
        if level.sustains(rate, served):
            held = rate, served
        else:
            failed = rate
    return held[0], failed, held[1]


def server(session: Session, knobs: Mapping[str, Any]) -> Callable[..., Sequence[Served]] | None:
    """What answers a load, by the texts that `ends` hold too; None where an engine cannot serve or no load is asked
    for."""
    serve = getattr(session, "serve", None) if knobs["clients"] or knobs["open_requests"] else None
    return partial(serve, ends=knobs["ends"]) if serve and knobs.get("ends") else serve


def places_of(session: Any) -> int:
    """How many requests of an open loop a session that serves answers side by side."""
    return int(session.places)


def measure(
    session: Session, prompts: Sequence[str], knobs: Mapping[str, Any], progress: Callable[[float, str], None],
    longest: int = 0,
) -> list[Measurement]:  # fmt: skip
    """Closed loops of `clients`, each asking `requests_per_client` times for `output_tokens`, then the goodput of an
    open loop of `open_requests` (0: not sought) at the service level `level`, on as many places as the session has; of
    more where these come too fast to last as long as `LASTS_LEVELS` and `LASTS_ANSWERS` ask for, of fewer where they
    would last longer than `LASTS_MOST`. With `longest`, what an open loop asks for is answered to its own end or up to
    so many tokens, as a service would, without it, by `output_tokens` tokens. It begins near what a closed loop of
    such answers on all places gives (`natural_<places>`, `closed_<places>`). Nothing where an engine cannot serve."""
    serve = server(session, knobs)
    if serve is None:
        return []
    found: list[Measurement] = []
    tokens = knobs["output_tokens"]

    def asked(n: int) -> list[str]:
        return [prompts[i % len(prompts)] for i in range(n)]

    for clients in knobs["clients"]:
        progress(0.92, f"{clients} clients")
        some = asked(clients * knobs["requests_per_client"])
        found += summary(f"closed_{clients}", serve(some, tokens, clients), some)
    if knobs["open_requests"]:
        progress(0.96, "open loop")
        places = places_of(session)
        level = Level(**knobs["level"])
        natural, name = bool(longest), f"{'natural' if longest else 'closed'}_{places}"
        tokens = longest or tokens
        if natural or places not in knobs["clients"]:
            some = asked(places * knobs["requests_per_client"])
            found += summary(name, serve(some, tokens, places, natural=natural), some)
        closed = {m.metric: m.value for m in found}
        answer, rate = closed[f"{name}/e2e_ms/p50"], closed[f"{name}/requests_per_s"]
        lasts = max(min(LASTS_LEVELS * level.ttft_ms / 1e3, LASTS_MOST), LASTS_ANSWERS * answer / 1e3)

        def run(at: float) -> Sequence[Served]:
            few = min(knobs["open_requests"], math.ceil(at * LASTS_MOST))
            due = arrivals(at, max(few, math.ceil(at * lasts)))
            return serve(asked(len(due)), tokens, places, due, natural)

        def idle() -> Sequence[Served]:
            return serve(asked(IDLE), knobs["output_tokens"], 1)  # how long an answer takes is no part of the level

        first = (BEGIN if natural else BEGIN_FIXED) * rate
        best, failed, served = goodput(run, first, level, knobs["precision"], idle)
        n = len(served) or knobs["open_requests"]
        found.append(Measurement("open/places", float(places), "rows", "higher", 1))
        found.append(Measurement("goodput_requests_per_s", best, "req/s", "higher", n))
        if failed is not None:
            found.append(Measurement("goodput_failed_at", failed, "req/s", "higher", n))
        if served:
            mean = sum(len(s.times) for s in served) / n
            found += [
                *summary("open", served, asked(n)), Measurement("open/tokens/mean", mean, "tokens", "lower", n),
            ]  # fmt: skip
    return found
