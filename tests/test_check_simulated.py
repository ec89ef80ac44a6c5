"""Does the gate cry wolf, and does it see one? Simulated releases; `benchmarks/gate_errors.py` has 10,000 of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binom, multinomial

from benchmarks.gate_errors import Release, codes, detectable, rules_of
from harness.check import timing
from harness.check.answers import length_trial
from harness.check.rules import load
from harness.check.sequential import level, levels, spent
from harness.check.subject import Row
from harness.statistics import paired

RUNS = 100  # of which 5% are seen for what they are beside 15%, and 95% beside 85%, in 99 of 100 cases
RULES = load("default")


@pytest.fixture
def as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that pass: they are most of the work where answers are what is asked about."""
    monkeypatch.setattr(timing, "slower", lambda *_: (0.0, 1.0))


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("rows", [48, 144])
def test_no_change_gives_no_alarm(rows: int, group: int) -> None:
    found, _ = codes(Release(rows=rows, group=group, spread=0.1, drift=1.1), RULES, RUNS)
    assert found[1] <= 0.05


@pytest.mark.usefixtures("as_fast")
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("rows", [48, 144, 288])
def test_twice_the_detectable_drop_is_caught(rows: int, group: int) -> None:
    plain = Release(rows=rows, group=group)
    found, _ = codes(Release(rows=rows, group=group, drop=2 * detectable(plain, RULES)), RULES, RUNS)
    assert found[1] >= 0.95


@pytest.mark.parametrize("churn", [0.051, 0.1, 0.2])
@pytest.mark.parametrize("rows", [72, 144, 288])
def test_a_drop_of_just_the_margin_passes_in_one_of_twenty(rows: int, churn: float) -> None:
    """Exactly, summed over all numbers of rows that may be lost and gained."""
    margin = RULES.quality.margin
    lose, gain = (churn + margin) / 2, (churn - margin) / 2
    passed = of_twelve = 0.0
    for lost in range(round(rows * margin) + 60):
        for gained in range(max(0, lost - round(rows * margin)), round(rows * gain + 6 * (rows * gain) ** 0.5) + 2):
            chance = multinomial.pmf([lost, gained, rows - lost - gained], rows, [lose, gain, 1 - lose - gain])
            if chance > 1e-6:
                pair = paired(
                    [0] * lost + [1] * (rows - lost), [1] * lost + [0] * gained + [1] * (rows - lost - gained)
                )
                passed += chance * (pair.p_not_worse(margin) <= RULES.alpha)
                of_twelve += 12 * chance * (pair.p_not_worse(margin) <= 0.025 / 12)
    assert 0.01 < passed <= 0.055
    assert of_twelve <= 0.035, "that a report calls one of so many quantizations no worse, by Holm"


@pytest.mark.parametrize(("groups", "rows"), [(1, 200), (2, 100), (24, 12), (48, 6), (60, 5), (96, 3)])
def test_groups_that_flip_as_one_count_as_one(groups: int, rows: int) -> None:
    """Exactly, summed over all numbers of groups that may be lost."""
    margin, passed = RULES.quality.margin, 0.0
    names = [g for g in range(groups) for _ in range(rows)]
    for lost in range(groups + 1):
        pair = paired([int(g >= lost) for g in names], [1] * len(names), names)
        if pair.p_not_worse(margin) <= RULES.alpha:
            passed += float(binom.pmf(lost, groups, margin))
        assert lost or 1 - pair.p_not_worse(margin) >= 0.5, "nothing lost is not shown to be worse either"
    assert passed <= 0.055


@pytest.mark.usefixtures("as_fast")
@pytest.mark.parametrize("longer", [RULES.length.low, RULES.length.high])
def test_a_length_at_its_bound_passes_in_one_of_twenty(longer: float) -> None:
    edge = Release(rows=144, longer=longer)
    found, _ = codes(edge, rules_of(edge), RUNS)
    assert found[0] <= 0.1
    assert found[1] <= 0.05


@pytest.mark.parametrize(("rows", "room"), [(48, 236), (144, 236), (144, 40), (288, 236)])
def test_a_length_that_grows_by_a_few_answers_at_the_limit_passes_no_more_often(rows: int, room: int) -> None:
    """Exactly, summed over all numbers of rows that may run on, from some 20 tokens to the limit."""
    margin, passed = RULES.length.high - 1, 0.0
    before = [Row(f"r{i}", "e", None, "", 20.0 + i % 5 - 2, True, {}) for i in range(rows)]
    for long in range(round(rows * margin * 20 / room) + 1):
        now = [replace(r, answer="!", tokens=20.0 + room) if i < long else r for i, r in enumerate(before)]
        found = length_trial("c", list(zip(now, before, strict=True)), RULES.length, 20 + room)
        assert found is not None
        if found.p_within <= RULES.alpha:
            passed += float(binom.pmf(long, rows, margin * 20 / room))
    assert passed <= 0.055


@pytest.mark.parametrize(("rows", "share", "long"), [(100, 0.1, 150), (300, 0.05, 250), (300, 0.1, 150)])
def test_a_length_that_loses_a_few_long_answers_passes_no_more_often(rows: int, share: float, long: int) -> None:
    """At the lower bound: each of the few long answers becomes as short as the others or does not."""
    rng, passed = np.random.default_rng(1), 0
    mean = share * long + (1 - share) * 20
    lost = (1 - RULES.length.low) * mean / (share * (long - 20))
    for _ in range(4 * RUNS):
        far, now = rng.random(rows) < share, rng.random(rows) < lost
        before = [Row(f"r{i}", "e", None, "", float(long if x else 20), True, {}) for i, x in enumerate(far)]
        after = [replace(r, answer="!", tokens=20.0 if x else r.tokens) for r, x in zip(before, now, strict=True)]
        found = length_trial("c", list(zip(after, before, strict=True)), RULES.length, 256)
        passed += found is not None and found.p_within <= RULES.alpha
    assert passed / (4 * RUNS) <= 0.06


@pytest.mark.parametrize(("asked", "rounds"), [(66, 1), (66, 6), (22, 6)])
def test_hiccups_of_several_rounds_beside_one_decide_nothing(asked: int, rounds: int) -> None:
    """One request in twenty takes half as long again, on either side."""
    rng, blocked = np.random.default_rng(1), 0
    for _ in range(4 * RUNS):
        usual = 1_000 * np.exp(rng.normal(0, 0.3, asked))
        then, now = (np.tile(usual, n) * np.where(rng.random(asked * n) < 0.05, 1.5, 1.0) for n in (1, rounds))
        blocked += timing.tail(now.tolist(), then.tolist(), 1.2, asked)[3] <= timing.TAIL
    assert blocked / (4 * RUNS) <= 0.03


@pytest.mark.usefixtures("as_fast")
@pytest.mark.parametrize(
    ("rows", "group", "budget"),
    [(10, 1, False), (48, 1, False), (48, 1, True), (144, 1, False), (288, 24, False)],
)
def test_graded_rows_that_rarely_lose_all_pass_no_more_often(rows: int, group: int, budget: bool) -> None:
    """A drop of just the margin, while all other rows change by a point: what varies little says nothing of them."""
    edge = Release(rows=rows, group=group, shared=1.0, jitter=0.01, drop=RULES.quality.margin)
    found, _ = codes(edge, rules_of(edge), RUNS // 2, budget)
    assert found[0] <= 0.05


@pytest.mark.usefixtures("as_fast")
@pytest.mark.parametrize("budget", [False, True])
def test_graded_rows_that_change_by_chance_alone_pass(budget: bool) -> None:
    same = Release(rows=144, jitter=0.01)
    found, _ = codes(same, rules_of(same), RUNS // 2, budget)
    assert found[0] >= 0.9
    assert found[1] <= 0.05


def test_noise_of_a_tenth_is_no_alarm_and_a_fifth_slower_is_caught() -> None:
    timed = {"rows": 48, "churn": 0.02, "requests": 66, "spread": 0.1}
    assert codes(Release(**timed, drift=1.1), RULES, RUNS)[0][1] <= 0.05  # type: ignore[arg-type]
    assert codes(Release(**timed, slower=1.2), RULES, RUNS)[0][1] >= 0.95  # type: ignore[arg-type]


@pytest.mark.usefixtures("as_fast")
def test_a_budget_keeps_the_errors_and_saves_rows() -> None:
    found, looked = codes(Release(rows=288), RULES, RUNS // 2, budget=True)
    assert found[1] <= 0.05
    assert looked < 0.9
    worse = 2 * detectable(Release(rows=288), RULES)
    found, looked = codes(Release(rows=288, drop=worse), RULES, RUNS // 2, budget=True)
    assert found[1] >= 0.95
    assert looked < 0.7


def test_levels_are_those_of_the_literature() -> None:
    """Lan and DeMets' bounds of O'Brien and Fleming's kind: five looks at 2.5%, one-sided."""
    bounds = [-float(ndtri(p)) for p in levels(0.025, (0.2, 0.4, 0.6, 0.8, 1.0))]
    assert bounds == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=0.002)


def test_one_look_is_no_correction_and_all_is_spent_at_the_end() -> None:
    assert level(0.05, (1.0,)) == 0.05
    assert levels(0.05, (1.0,))[0] == pytest.approx(0.05, abs=1e-6)
    assert spent(0.05, 1.0) == pytest.approx(0.05)
    assert spent(0.05, 0.0) == 0.0
