"""How often the release gate is wrong, by simulated releases whose truth is known: `python benchmarks/gate_errors.py`.

Each release is a baseline and a candidate of one cell, judged by the gate's own code under conf/check/default.yaml: two
row scores (the deciding one, and whether the answer ended), lengths, and raw samples of two latencies; graded scores
are judged alone. Nothing here was measured; what is counted are exit codes: 0 pass, 1 regressed, 3 inconclusive.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.check.judge import Looks, certain, judge, settled
from harness.check.rules import Rules, load
from harness.check.subject import Row, Side, Subject
from harness.power import detectable_difference

GRADES = (0.75, 0.95)  # of graded rows
ALONE = [f"{section}.blocks=false" for section in ("validity", "length", "latency")]  # rules for the deciding score
LENGTH = [f"{section}.blocks=false" for section in ("quality", "validity", "latency", "memory", "size")]
TOKENS = 100.0  # of an answer of the baseline, in the mean
TESTED = 5  # metrics of a release that are tests: style, ended, length, ttft_ms, e2e_ms


@dataclass(frozen=True, slots=True)
class Release:
    """What is true of a candidate. `churn` is the share of rows whose score differs at all, `drop` the true drop of the
    deciding score, `slower` how many times as long it takes. `group` rows belong together, and a share of a
    group's changes is `shared`. With `jitter` the deciding score is graded: 0.75 to 0.95, changed by that deviation
    on each row, and `drop` is of rows that lose all (`churn` is of tokens alone then). `longer` is how many times as
    long answers are in the mean, each by as many tokens: lengths are then judged alone. `spread` is the deviation of
    single requests' times, `drift` how far a whole run may be off (uniform in the logarithm, from 1/drift to drift
    between the two runs)."""

    rows: int = 144
    churn: float = 0.1
    drop: float = 0.0
    group: int = 1
    shared: float = 0.5
    jitter: float = 0.0
    longer: float = 1.0
    requests: int = 24
    slower: float = 1.0
    spread: float = 0.03
    drift: float = 1.0


def detectable(release: Release, rules: Rules) -> float:
    """The drop that such a release would show in 4 of 5 cases, by what is true rather than by what was drawn."""
    rows = release.rows / (1 if release.group == 1 else 1 + 0.25 * (release.group - 1))
    shown = detectable_difference(int(rows), release.churn, 2 * rules.alpha / TESTED)
    return max(shown, rules.quality.margin - 0.80 * math.sqrt(release.churn / rows))


def drawn(release: Release, rng: Any) -> tuple[Side, Side]:
    """A candidate and its baseline, drawn."""
    n = release.rows
    groups: Any = np.arange(n) // release.group

    def changes(gain: float, lose: float) -> Any:
        def luck() -> Any:
            u = rng.random(n)
            return np.where(u < gain, 1, np.where(u < gain + lose, -1, 0))

        return np.where(rng.random(n) < release.shared, luck()[groups], luck()) if release.group > 1 else luck()

    both = max(release.churn, release.drop)
    moved = {"style": changes((both - release.drop) / 2, (both + release.drop) / 2), "ended": changes(0.005, 0.005)}
    before = {
        k: np.where(v == 0, rng.random(n) < (0.7 if k == "style" else 0.98), v < 0).astype(int)
        for k, v in moved.items()
    }
    after = {k: before[k] + v for k, v in moved.items()}
    if release.jitter:
        middle, lost = rng.uniform(*GRADES, n), changes(0.0, release.drop / (sum(GRADES) / 2)) < 0
        one, other = (np.clip(middle + rng.normal(0, release.jitter / math.sqrt(2), n), 0, 1) for _ in range(2))
        before["style"], after["style"] = one, np.where(lost, 0.0, other)
    tokens = rng.normal(TOKENS, TOKENS / 5, n)
    other = tokens + (release.longer - 1) * TOKENS + np.where(moved["style"] != 0, rng.normal(0, 15, n), 0)
    sides = []
    for now in (True, False):
        score = after if now else before
        length = other if now else tokens
        rows = tuple(
            Row(f"r{i}", "e", f"g{groups[i]}", f"{i} {now and moved['style'][i]}", float(length[i]),
                bool(score["ended"][i]), {"style": score["style"][i].item()})
            for i in range(n)
        )  # fmt: skip
        pace = release.slower * release.drift ** rng.uniform(-1, 1) if now else 1.0
        samples = {
            name: tuple(middle * pace * np.exp(rng.normal(0, release.spread, release.requests)))
            for name, middle in (("ttft_ms", 200.0), ("e2e_ms", 1500.0))
        }
        sizes = {"memory_bytes/peak_rss": 9e8, "disk_bytes": 2.7e8, "weights_bytes": 2.7e8}
        sides.append(Side("", (Subject(
            "m/a/q/s", "s", "style", "d", rows, sizes, (), samples, {"device": "cpu", "hardware": "simulated"}, {}, (),
            1.0, {},
        ),)))  # fmt: skip
    return sides[0], sides[1]


def staged(candidate: Side, baseline: Side, rules: Rules) -> tuple[int, float]:
    """The exit code with `--budget`, and the share of the rows that it took. Rows come in the order drawn, which is
    random; groups stay whole."""
    (a,), (b,) = candidate.cells, baseline.cells
    shares: tuple[float, ...] = ()
    done = None
    for look in range(1, rules.budget.looks + 1):
        upto = round(len(a.rows) * look / rules.budget.looks)
        shares = (*shares, upto / len(a.rows))
        sides = [replace(s, cells=(replace(c, rows=c.rows[:upto]),)) for s, c in ((candidate, a), (baseline, b))]
        found = judge(sides[0], sides[1], rules, Looks(shares, done))
        done = settled(found)
        if certain(found):
            break
    return found.exit_code, shares[-1]


def codes(
    release: Release, rules: Rules, runs: int, budget: bool = False, seed: int = 0
) -> tuple[dict[int, float], float]:
    """The share of each exit code over `runs` releases, and the mean share of the rows looked at."""
    rng, counted, looked = np.random.default_rng(seed), Counter[int](), 0.0
    for _ in range(runs):
        candidate, baseline = drawn(release, rng)
        code, share = (
            staged(candidate, baseline, rules) if budget else (judge(candidate, baseline, rules).exit_code, 1.0)
        )
        counted[code] += 1
        looked += share
    return {code: counted[code] / runs for code in (0, 1, 3)}, looked / runs


def cases(rules: Rules) -> Iterator[tuple[str, Release, bool]]:
    """What is simulated: a name, the truth, and whether by `--budget`."""
    for rows in (48, 144, 288, 1_000):
        for group in (1, 3):
            plain = Release(rows=rows, group=group)
            told = f"{rows} rows" + (f" in groups of {group}" if group > 1 else "")
            yield f"no change, {told}", plain, False
            yield f"no change, {told}, times drift by 10%", replace(plain, spread=0.1, drift=1.1), False
            worse = 2 * detectable(plain, rules)
            yield f"drop of twice the detectable, {100 * worse:.0f} points, {told}", replace(plain, drop=worse), False
    for rows in (144, 288):
        edge = Release(rows=rows, drop=rules.quality.margin)
        yield f"drop of just the margin, {rows} rows", edge, False
        yield f"drop of just the margin, {rows} rows, --budget", edge, True
        yield f"no change, {rows} rows, --budget", Release(rows=rows), True
        worse = 2 * detectable(Release(rows=rows), rules)
        yield f"drop of twice the detectable, {rows} rows, --budget", Release(rows=rows, drop=worse), True
    for group in (3, 6, 12, 24):
        for shared in (0.5, 1.0):
            edge = Release(rows=288, churn=0.05, drop=rules.quality.margin, group=group, shared=shared)
            told = f"{288 // group} groups of {group}, {100 * shared:.0f}% of their changes shared"
            yield f"drop of just the margin, {told}", edge, False
    for longer in (rules.length.low, rules.length.high):
        for rows in (48, 144, 288):
            yield f"lengths alone, {longer:g} times as long, {rows} rows", Release(rows=rows, longer=longer), False
    for requests in (3, 12, 44, 66):
        for spread in (0.03, 0.1):
            told = f"{requests} requests, each ±{100 * spread:.0f}%"
            timed = Release(rows=288, churn=0.04, requests=requests, spread=spread)
            yield f"as fast, {told}", timed, False
            yield f"as fast, {told}, run drifts up to 10%", replace(timed, drift=1.1), False
            yield f"20% slower, {told}", replace(timed, slower=1.2), False
            yield f"20% slower, {told}, run drifts up to 10%", replace(timed, slower=1.2, drift=1.1), False
    for rows, group, jitter in (
        *((rows, 1, 0.01) for rows in (10, 20, 48, 72, 96, 144, 288)), (144, 1, 0.1), (288, 3, 0.01), (288, 24, 0.01)
    ):  # fmt: skip
        same = Release(rows=rows, group=group, shared=1.0, jitter=jitter)
        edge = replace(same, drop=rules.quality.margin)
        told = f"{rows} rows in groups of {group} that change by ±{100 * jitter:.0f} points"
        for budget in (False, True) if rows in (48, 144, 288) and group == 1 else (False,):
            more = f"{told}, --budget" if budget else told
            yield f"graded alone, no change, {more}", same, budget
            yield f"graded alone, drop of just the margin by rows that lose all, {more}", edge, budget


def rules_of(release: Release) -> Rules:
    """The rules by which a release is judged: whole, or by what is at its bound alone."""
    return load("default", ALONE if release.jitter else LENGTH if release.longer != 1 else ())


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="releases a case (10,000)")
    parser.add_argument("--only", default="", help="cases whose name this regular expression is found in")
    arguments = parser.parse_args()
    rules = load("default")
    print("| truth | pass | regressed | inconclusive | rows looked at |\n|---|---|---|---|---|")
    for name, release, budget in cases(rules):
        if re.search(arguments.only, name):
            found, looked = codes(release, rules_of(release), arguments.runs, budget)
            shares = " | ".join(f"{100 * found[code]:.2f}%" for code in (0, 1, 3))
            print(f"| {name} | {shares} | {100 * looked:.0f}% |", flush=True)


if __name__ == "__main__":
    main()
