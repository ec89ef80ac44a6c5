"""Who is served when: with a fake engine whose prompts and steps take exact times, to the millisecond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engine.serving import Tokens, serve
from harness.types import Request, Served

STOP = 0
PROMPT_S, STEP_S = 0.010, 0.002


@dataclass
class FakeEngine:
    """Reads prompts in 10 ms each and makes one more token of any batch in 2 ms, one launch after the other. The prompt
    [n, token] is answered with n tokens and then the stop token; n < 0 never stops. If not `ahead`, a
    launch takes the time of its work."""

    rows: int
    ahead: bool = True
    now: float = 0.0
    busy_until: float = 0.0
    held: dict[int, tuple[int, int]] = field(default_factory=dict)
    calls: list[tuple[str, float, tuple[int, ...]]] = field(default_factory=list)
    keys: list[tuple[int, int]] = field(default_factory=list)

    def _launch(self, kind: str, slots: Sequence[int], seconds: float) -> Tokens:
        assert len(set(slots)) == len(slots)
        assert all(0 <= s < self.rows for s in slots)
        start = max(self.now, self.busy_until)
        done = self.busy_until = start + seconds
        self.calls.append((kind, round(start, 6), tuple(slots)))
        tokens = []
        for slot in slots:
            left, token = self.held[slot]
            self.held[slot] = (left - 1, token)
            tokens.append(STOP if left == 0 else token)

        if not self.ahead:
            self.now = done

        def wait() -> list[int]:
            self.now = max(self.now, done)
            return tokens

        return wait

    def admit(self, prompts: Sequence[Sequence[int]], slots: Sequence[int], keys: Sequence[int]) -> Tokens:
        self.keys += [(prompt[1], key) for prompt, key in zip(prompts, keys, strict=True)]
        for prompt, slot in zip(prompts, slots, strict=True):
            self.held[slot] = (prompt[0], prompt[1])
        return self._launch("admit", slots, PROMPT_S * len(prompts))

    def step(self, slots: Sequence[int]) -> Tokens:
        return self._launch("step", slots, STEP_S)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, *requests: Request, wait_for: int = 1) -> list[Served]:
        return serve(self, requests, {STOP}, wait_for=wait_for, clock=lambda: self.now, sleep=self.sleep)


def ms(times: Sequence[float]) -> list[float]:
    return [round(1e3 * t, 3) for t in times]


def test_one_request_alone() -> None:
    engine = FakeEngine(1)
    (found,) = engine.run(Request([-1, 7], 4))
    assert ms(found.times) == [10, 12, 14, 16]
    assert found.tokens == [7, 7, 7, 7]
    assert not found.finished
    assert [kind for kind, *_ in engine.calls] == ["admit", "step", "step", "step"], "not a step more than was asked"


def test_tokens_of_steps_that_do_not_run_by_themselves_are_read_before_the_next() -> None:
    """As on a CPU, where a step has been computed when it is launched: none is computed in vain, and no token arrives
    with the one after it."""
    engine = FakeEngine(2, ahead=False)
    first, second = engine.run(Request([-1, 7], 4), Request([1, 8], 9))
    assert ms(first.times) == [20, 22, 24, 26]
    assert ms(second.times) == [20, 22]
    assert [slots for kind, _, slots in engine.calls if kind == "step"] == [(0, 1), (0,), (0,)]


def test_a_stop_token_is_found_one_step_late_and_costs_that_step_alone() -> None:
    engine = FakeEngine(1)
    first, second = engine.run(Request([2, 7], 9), Request([0, 8], 9))
    assert (first.tokens, first.finished, ms(first.times)) == ([7, 7], True, [10, 12, 14])
    assert (second.tokens, second.finished) == ([], True)
    assert [kind for kind, *_ in engine.calls] == ["admit", *["step"] * 3, "admit", "step"]
    assert ms(second.times) == [26.0]  # 14, then the step launched before the stop was seen, then its own prompt
    assert second.sent == pytest.approx(0.014), "a client of a closed loop sends when the answer before has arrived"


def test_a_slot_that_falls_free_is_filled_while_others_go_on() -> None:
    engine = FakeEngine(2)
    short, long, third = engine.run(Request([-1, 5], 2), Request([-1, 6], 20), Request([-1, 7], 3))
    assert ms(short.times) == [20, 22]
    assert third.sent == pytest.approx(0.022), "when the short answer was there"
    assert ms(third.times) == [34, 36, 38], "after the step that was under way"
    assert ms(long.times)[:4] == [20, 22, 24, 36], "the prompt of the third came between"
    assert engine.calls[3] == ("admit", 0.024, (0,))
    assert engine.calls[4] == ("step", 0.034, (1, 0))
    assert len(long.tokens) == 20


def test_a_client_asks_when_it_has_its_answer_though_another_is_read_then() -> None:
    """The second's answer arrives while the third's prompt is read, which the fourth waits for."""
    engine = FakeEngine(2)
    first, second, third, fourth = engine.run(*(Request([n, 7], 9) for n in (1, 2, 5, 5)))
    assert ms(first.times) == [20, 22]
    assert ms(second.times) == [20, 22, 24]
    assert ms([third.sent, fourth.sent]) == [22, 24]
    assert (third.times[0], fourth.times[0]) == pytest.approx((0.034, 0.046))


def test_who_had_an_answer_first_asks_first() -> None:
    engine = FakeEngine(3)
    *_, third, last = engine.run(*(Request([-1, 7], n) for n in (2, 3, 9, 4, 4)), wait_for=2)
    assert ms([third.sent, last.sent]) == [32, 34]


def test_an_open_loop_measures_from_the_scheduled_send() -> None:
    """The second arrives while the only slot is taken, and its wait counts; the third finds the engine idle."""
    engine = FakeEngine(1)
    first, second, third = engine.run(
        Request([-1, 5], 3, due=0.0), Request([-1, 6], 2, due=0.005), Request([-1, 7], 2, due=0.100)
    )
    assert ms(first.times) == [10, 12, 14]
    assert second.sent == 0.005
    assert ms(second.times) == [24, 26]
    assert third.sent == 0.100
    assert ms(third.times) == [110, 112]


def test_requests_are_taken_in_the_order_they_are_due() -> None:
    engine = FakeEngine(1)
    late, early = engine.run(Request([-1, 5], 1, due=0.050), Request([-1, 6], 1, due=0.001))
    assert ms(early.times) == [11]
    assert ms(late.times) == [60]


def test_a_slot_is_told_the_key_of_its_request() -> None:
    engine = FakeEngine(2)
    engine.run(*(Request([n % 3, 10 + n], 4, due=0.01 * (5 - n), key=100 + n) for n in range(5)))
    assert sorted(engine.keys) == [(10 + n, 100 + n) for n in range(5)]


def test_waiting_for_several_slots_reads_their_prompts_together() -> None:
    requests = [Request([-1, 9], 2 + n % 2) for n in range(6)]
    eager, patient = FakeEngine(2), FakeEngine(2)
    assert [s.tokens for s in eager.run(*requests)] == [s.tokens for s in patient.run(*requests, wait_for=2)]
    widths = [[len(slots) for kind, _, slots in e.calls if kind == "admit"] for e in (eager, patient)]
    assert widths[0][:2] == [2, 1]
    assert widths[1] == [2, 2, 2]


@given(
    ahead=st.booleans(),
    rows=st.integers(1, 5),
    wait_for=st.integers(1, 5),
    asked=st.lists(
        st.tuples(st.integers(-1, 6), st.integers(1, 6), st.none() | st.floats(0, 0.2)), min_size=1, max_size=20
    ),
)
def test_every_request_gets_its_own_answer_whatever_the_slots(
    ahead: bool, rows: int, wait_for: int, asked: list[tuple[int, int, float | None]]
) -> None:
    engine = FakeEngine(rows, ahead)
    requests = [Request([n, i + 1], most, due) for i, (n, most, due) in enumerate(asked)]
    found = engine.run(*requests, wait_for=wait_for)
    for i, (served, (n, most, due)) in enumerate(zip(found, asked, strict=True)):
        stops = 0 <= n < most
        assert served.tokens == [i + 1] * (n if stops else most)
        assert served.finished == stops
        assert len(served.times) == len(served.tokens) + stops
        assert served.times == sorted(served.times)
        assert served.times[0] >= served.sent + PROMPT_S - 1e-9
        assert due is None or served.sent == due
    starts = [start for _, start, _ in engine.calls]
    assert starts == sorted(starts)
