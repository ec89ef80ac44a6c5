"""Latencies under load, with a fake engine of exact times: 10 ms a prompt, 2 ms a step of any batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy
import pytest

from harness.measure import load
from harness.measure.load import Level, arrivals, goodput, measure, summary
from harness.types import Measurement, Request, Served
from tests.test_serving import FakeEngine

KNOBS: dict[str, Any] = {
    "clients": [1, 4], "requests_per_client": 3, "output_tokens": 5, "open_requests": 60, "precision": 0.05,
    "level": {"ttft_ms": 60.0, "token_ms": 20.0, "share": 0.95},
}  # fmt: skip


PROMPTS = [f"prompt {n}" for n in range(100)]


class FakeSession:
    """Serves on a fresh fake engine each time."""

    places = 4

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def serve(
        self, prompts: Sequence[str], new_tokens: int, clients: int, due: Sequence[float] | None = None,
        natural: bool = False,
    ) -> list[Served]:  # fmt: skip
        """Answers to their own end have as many tokens as their prompt has characters, and the stop token."""
        self.asked.append((len(prompts), new_tokens, clients))
        times: Sequence[float | None] = due or [None] * len(prompts)
        ends = [len(p) if natural else -1 for p in prompts]
        asked = [Request([end, 9], new_tokens, at) for end, at in zip(ends, times, strict=True)]
        return FakeEngine(clients).run(*asked)


def values(found: Sequence[Measurement]) -> dict[str, float]:
    return {m.metric: m.value for m in found}


def taken(knobs: dict[str, Any], session: Any = None) -> dict[str, float]:
    who: Any = session or FakeSession()
    return values(measure(who, ["a", "b"], knobs, lambda fraction, note: None))


def test_a_closed_loop_to_the_millisecond() -> None:
    found = taken({**KNOBS, "open_requests": 0})
    assert found["closed_1/ttft_ms/p50"] == pytest.approx(10)
    assert found["closed_1/ttft_ms/p95"] == pytest.approx(10)
    assert found["closed_1/itl_ms/p50"] == pytest.approx(2)
    assert found["closed_1/e2e_ms/p95"] == pytest.approx(18)
    assert found["closed_1/requests_per_s"] == pytest.approx(1 / 0.018)
    assert found["closed_1/tokens_per_s"] == pytest.approx(5 / 0.018)
    # four prompts are read at once (40 ms), then four steps; all end together, and the next four begin
    assert found["closed_4/ttft_ms/p50"] == pytest.approx(40)
    assert found["closed_4/itl_ms/p95"] == pytest.approx(2)
    assert found["closed_4/e2e_ms/p50"] == pytest.approx(48)
    assert found["closed_4/requests_per_s"] == pytest.approx(4 / 0.048)
    assert "goodput_requests_per_s" not in found


def test_quantiles_are_those_of_all_requests() -> None:
    served = [Served(0.0, [1, 1], True, [0.001 * n, 0.001 * n + 0.01]) for n in range(1, 101)]
    found = {m.metric: m for m in summary("x", served, PROMPTS)}
    assert found["x/ttft_ms/p95"].value == pytest.approx(float(numpy.quantile(range(1, 101), 0.95)))
    interval = found["x/ttft_ms/p95"].interval
    assert interval is not None
    assert interval.low < 95 < interval.high
    assert found["x/itl_ms/p50"].value == pytest.approx(10)
    assert found["x/requests_per_s"].value == pytest.approx(100 / 0.11)


def test_what_a_step_gives_to_many_rows_is_one_event() -> None:
    """Copies of a time are no more sure than the time: a loop of 32 clients saw as many steps as one of one client."""
    ends = numpy.cumsum(numpy.random.default_rng(0).lognormal(0, 0.3, 62)) / 100
    alone = [Served(0.0, [1] * 31, True, ends[:31].tolist()), Served(ends[30], [1] * 31, True, ends[31:].tolist())]
    together = [replace(s, sent=s.sent + 1e-5 * n) for s in alone for n in range(32)]
    one, many = ({m.metric: m for m in summary("x", served, PROMPTS)} for served in (alone, together))
    for name in ("itl_ms/p50", "itl_ms/p95", "ttft_ms/p50", "e2e_ms/p95"):
        assert many[f"x/{name}"].n == one[f"x/{name}"].n
    assert many["x/itl_ms/p50"].n == 60
    first, other = (found["x/itl_ms/p50"].interval for found in (one, many))
    assert first
    assert other
    assert other.high - other.low == pytest.approx(first.high - first.low, rel=0.2)


def test_answers_to_one_prompt_are_one_event() -> None:
    served = [Served(0.0, [1, 1], True, [0.001 * n, 0.001 * n + 0.01]) for n in range(1, 101)]
    found = {m.metric: m.n for m in summary("x", served, [PROMPTS[n % 10] for n in range(100)])}
    assert (found["x/ttft_ms/p95"], found["x/e2e_ms/p95"], found["x/itl_ms/p95"]) == (10, 10, 100)


def test_arrivals_are_a_poisson_process_and_the_same_for_every_cell() -> None:
    due = arrivals(20.0, 4000)
    gaps = numpy.diff([0.0, *due])
    assert due[-1] == pytest.approx(4000 / 20), "at the rate that was asked for, whatever the draw"
    assert due == arrivals(20.0, 4000)
    assert arrivals(40.0, 4000) == pytest.approx([t / 2 for t in due]), "another rate is the same rush, faster"
    assert due[load.STRETCH - 1 :: load.STRETCH] == pytest.approx(
        [n * load.STRETCH / 20 for n in range(1, 4000 // load.STRETCH + 1)], rel=0.001
    ), "no stretch of them comes faster than the rate"
    for some in (1, 63, 94, 241):
        due = arrivals(20.0, some)
        whole = due[load.STRETCH - 1 :: load.STRETCH]
        assert whole == pytest.approx([n * load.STRETCH / 20 for n in range(1, len(whole) + 1)]), "nor a whole one"
        assert due[-1] == pytest.approx(some / 20)
    assert gaps.std() == pytest.approx(1 / 20, rel=0.08)
    assert (gaps > 2 / 20).mean() == pytest.approx(math.exp(-2), abs=0.02)


def test_a_service_level_is_a_share_of_requests_within_both_limits() -> None:
    good = Served(1.0, [1, 1, 1], False, [1.05, 1.06, 1.07])
    late, slow = Served(1.0, [1], False, [1.2]), Served(1.0, [1, 1], False, [1.01, 1.11])
    level = Level(ttft_ms=100, token_ms=50, share=0.9)
    assert level.holds([good] * 9 + [late])
    assert level.holds([good] * 9 + [slow])
    assert not level.holds([good] * 8 + [late, slow])
    assert Level(100, 100, 0.55).holds([good] * 55 + [late] * 45), "a share that binary fractions round up"
    assert not Level(100, 100, 0.55).holds([good] * 54 + [late] * 46)
    assert Level(100, 100, 0.55).reachable([good] * 54 + [late] * 46), "but one, likewise"


@pytest.mark.parametrize(("lag", "kept"), [(0.0, True), (0.025, True), (0.04, False)])
def test_a_rate_is_kept_up_if_answers_are_begun_at_it_however_long_they_take(lag: float, kept: bool) -> None:
    """First tokens that lag by a share of the time more with each request, within a level that would allow it."""
    loose = Level(ttft_ms=9000, token_ms=9000, share=0.95)
    served = [
        Served(n / 10, [1, 1], False, [1 + (1 + lag) * n / 10, 4 + (1 + lag) * n / 10]) for n in range(1, 1001)
    ]  # each begun a second after it was sent, and what it lags behind
    assert loose.holds(served)
    assert loose.sustains(10.0, served) is kept


@pytest.mark.parametrize("truth", [0.3, 7.0, 11.9, 47.0])
@pytest.mark.parametrize("first", [1.0, 12.0, 30.0])
def test_the_goodput_is_found_within_its_bracket(truth: float, first: float) -> None:
    """An engine that holds the level up to a known rate and no further."""
    good, bad = Served(0.0, [1], False, [0.01]), Served(0.0, [1], False, [9.0])
    tried: list[float] = []

    def run(rate: float) -> list[Served]:
        tried.append(rate)
        return [good if rate <= truth else bad]

    best, failed, served = goodput(run, first, Level(100, 100, 0.95), precision=0.02, idle=lambda: [good])
    if failed is None:
        assert best == max(tried) <= truth, "all that was tried held"
    else:
        assert best <= truth < failed <= 1.02 * best
        assert served == [good]


@pytest.mark.parametrize("truth", [0.85, 0.97, 1.02, 1.2])
def test_near_what_a_closed_loop_gave_four_rates_are_enough(truth: float) -> None:
    tried: list[float] = []

    def run(rate: float) -> list[Served]:
        tried.append(rate)
        return [Served(0.0, [1], False, [0.01 if rate <= truth else 9.0])]

    best, failed, _ = goodput(run, 1.0, Level(100, 100, 0.95), precision=0.06, idle=lambda: run(0.0))
    assert failed is not None
    assert best <= truth < failed <= 1.06 * best
    assert len([rate for rate in tried if rate]) == 4


@pytest.mark.parametrize(("slow", "tried"), [(0, 8), (1, 8), (2, 1), (8, 1)])
def test_no_rate_may_hold(slow: int, tried: int) -> None:
    """Nor is one looked for where answers are too slow though nobody waits, but for one that may be chance."""
    good, bad = Served(0.0, [1], False, [0.01]), Served(0.0, [1], False, [9.0])
    rates: list[float] = []

    def run(rate: float) -> list[Served]:
        rates.append(rate)
        return [bad]

    best, failed, served = goodput(run, 8.0, Level(100, 100, 1.0), 0.05, lambda: [good] * (8 - slow) + [bad] * slow)
    assert (best, list(served)) == (0.0, [])
    assert failed == pytest.approx(8.0 / 1.25 ** (7 * 8 / 2) if tried == 8 else 8.0)
    assert len(rates) == tried


def test_a_level_that_an_idle_engine_misses_costs_one_loop() -> None:
    session = FakeSession()
    found = taken({**KNOBS, "level": {"ttft_ms": 9.0, "token_ms": 20.0, "share": 0.95}}, session)
    assert (found["goodput_requests_per_s"], len(session.asked)) == (0.0, len(KNOBS["clients"]) + 2)
    assert session.asked[-1] == (load.IDLE, 5, 1)


def test_an_open_loop_is_served_on_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few clients the closed loops have: a prompt takes 10 ms and 40 steps of 2 ms, so one place carries 11."""
    knobs = {**KNOBS, "clients": [1], "output_tokens": 41, "level": {**KNOBS["level"], "ttft_ms": 500.0}}
    found: dict[int, dict[str, float]] = {}
    for places in (1, 4):
        monkeypatch.setattr(FakeSession, "places", places)
        found[places] = taken(knobs)
        assert found[places]["open/places"] == places
    assert found[1]["goodput_requests_per_s"] < 11.5
    assert found[4]["goodput_requests_per_s"] > 2 * found[1]["goodput_requests_per_s"]
    assert "closed_4/requests_per_s" in found[4], "where the search begins"


def test_a_loop_of_a_slow_engine_ends_with_fewer_requests() -> None:
    class Slow(FakeSession):
        """A hundred times slower."""

        def serve(
            self, prompts: Sequence[str], new_tokens: int, clients: int, due: Sequence[float] | None = None,
            natural: bool = False,
        ) -> list[Served]:  # fmt: skip
            made = super().serve(prompts, new_tokens, clients, due and [t / 100 for t in due], natural)
            return [replace(s, sent=100 * s.sent, times=[100 * t for t in s.times]) for s in made]

    session = Slow()
    level = {"ttft_ms": 6_000.0, "token_ms": 2_000.0, "share": 0.95}
    found = taken({**KNOBS, "open_requests": 5_000, "level": level}, session)
    assert 0.3 < found["goodput_requests_per_s"] < 1.0
    assert max(n for n, *_ in session.asked) <= math.ceil(load.LASTS_MOST)


def test_the_goodput_of_an_engine_is_near_what_it_can_carry() -> None:
    """One prompt takes 10 ms, so 100 requests a second is the most there is; in an open loop some wait for others."""
    found = taken(KNOBS)
    best, failed = found["goodput_requests_per_s"], found["goodput_failed_at"]
    assert 20 < best < failed < 100
    assert failed / best < 1.06
    assert found["open/ttft_ms/p95"] <= 60
    session = FakeSession()
    tight = taken({**KNOBS, "level": {"ttft_ms": 25.0, "token_ms": 20.0, "share": 0.95}}, session)
    assert tight["goodput_requests_per_s"] < best, "a tighter level is held at a lower rate"
    assert {n for n, *_ in session.asked} == {3, 12, 60, load.IDLE}


@pytest.mark.parametrize("ttft_ms", [60.0, 500.0])
def test_the_goodput_of_many_requests_is_what_a_long_run_holds(ttft_ms: float) -> None:
    """The long run is a Poisson process without stretches, of which the second half is looked at."""
    knobs = {**KNOBS, "open_requests": 960, "level": {**KNOBS["level"], "ttft_ms": ttft_ms}}
    level = Level(**knobs["level"])

    def holds(rate: float) -> bool:
        due = [float(t) for t in numpy.cumsum(numpy.random.default_rng(3).exponential(1 / rate, 8000))]
        return level.holds(FakeSession().serve(["a"] * len(due), knobs["output_tokens"], 4, due)[4000:])

    found = taken(knobs)
    assert holds(found["goodput_requests_per_s"] / 1.1)
    assert not holds(found["goodput_failed_at"] * 1.1)


def test_a_rush_that_is_over_before_its_queue_is_too_long_is_no_goodput(monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt takes 10 ms: more than 100 requests a second are never carried, however loose the level."""
    loose = {**KNOBS, "level": {"ttft_ms": 2000.0, "token_ms": 2000.0, "share": 0.95}}
    session = FakeSession()
    found = taken(loose, session)
    assert 60 < found["goodput_requests_per_s"] <= 100 / load.KEPT_UP
    assert max(n for n, *_ in session.asked) >= 2 * 60, "two seconds of requests"
    monkeypatch.setattr(load, "LASTS_MOST", 3.0)
    free = taken({**loose, "level": {**loose["level"], "ttft_ms": 30_000.0}}, session := FakeSession())
    assert 60 < free["goodput_requests_per_s"] <= 100 / load.KEPT_UP, "a level that allows all is none too"
    assert max(n for n, *_ in session.asked) <= 3 * 2 * 100, "and no loop lasts for it"


def test_answers_to_their_own_end_are_what_an_open_loop_is_asked_for() -> None:
    """Of 200 and 20 tokens: each alone takes 10 ms and 2 ms a token, so four at a time cannot have 100 a second."""
    session: Any = FakeSession()
    found = values(measure(session, ["a" * 200, "b" * 20], KNOBS, lambda fraction, note: None, longest=100))
    fixed = taken(KNOBS)
    assert found["open/tokens/mean"] == pytest.approx((100 + 21) / 2), "cut at the longest; the stop token counts"
    assert fixed["open/tokens/mean"] == KNOBS["output_tokens"]
    assert found["goodput_requests_per_s"] < 0.6 * fixed["goodput_requests_per_s"]
    assert {tokens for n, tokens, _ in session.asked if n not in (3, 12, load.IDLE)} == {100}
    assert (load.IDLE, KNOBS["output_tokens"], 1) in session.asked, "whether it can be held takes no whole answers"
    assert found["closed_4/e2e_ms/p50"] == fixed["closed_4/e2e_ms/p50"], "closed loops do the same work in every cell"
    assert found["natural_4/requests_per_s"] < fixed["closed_4/requests_per_s"]
    assert "natural_4/requests_per_s" not in fixed


def test_an_engine_that_cannot_serve_gives_nothing() -> None:
    assert taken(KNOBS, object()) == {}
    assert taken({**KNOBS, "clients": [], "open_requests": 0}) == {}


def test_a_goodput_is_found_without_closed_loops_before_it() -> None:
    found, beside = taken({**KNOBS, "clients": []}), taken(KNOBS)
    assert found["goodput_requests_per_s"] == beside["goodput_requests_per_s"]
    assert "closed_1/ttft_ms/p50" not in found


def test_bad_knobs_are_told_all_at_once() -> None:
    assert load.faults(KNOBS) == []
    wrong = {
        "clients": [0], "requests_per_client": 0, "open_requests": -1, "precision": 0.0,
        "level": {"ttft_ms": math.inf, "token_ms": "fast", "share": 1.5},
    }  # fmt: skip
    told = load.faults(wrong)
    assert [line.split("=")[0].removeprefix("measure.latency.") for line in told] == [
        "clients", "requests_per_client", "open_requests", "precision",
        "level.share", "level.ttft_ms", "level.token_ms",
    ]  # fmt: skip
    assert load.faults({**KNOBS, "clients": 8})
    assert load.faults({**KNOBS, "clients": [8, 8]})
    assert load.faults({**KNOBS, "adapters": 1}) == [
        "measure.latency.adapters=1: they are served side by side; give 2 or more, or 0"
    ]
    assert load.faults({**KNOBS, "level": None}) == ["measure.latency.level=None: give ttft_ms, token_ms and share"]
    assert [line.partition("=")[0].removeprefix("measure.latency.") for line in load.faults({})] == [
        "clients", "requests_per_client", "open_requests", "level", "precision",
    ]  # fmt: skip
    assert load.faults({**KNOBS, "precision": 1e-16}) == [
        "measure.latency.precision=1e-16: must be 0.001 or more, closer no loop can tell"
    ]
