"""Drawn tokens have the chances of their logits, and follow from seed, row and position alone, in both engines. (In
captured steps: `tests/gpu/`.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engine import ops
from harness.engine.eager import Eager, EagerSession
from harness.engine.graph import Graph, GraphSession
from harness.engine.serving import serve
from harness.loading import load
from harness.types import Completion, Request
from tests.test_engine import CONTEXT, PROMPTS
from tests.test_graph import MODELS, longer, saved

DRAWS = 20_000
LOGITS = torch.tensor([2.0, -1.0, 0.3, 1.1, 0.0, -2.0, 1.9, 0.5, -0.4, 0.9, -1.5, 1.4])
CHI_SQUARE_99 = {4: 13.28, 5: 15.09, 6: 16.81, 7: 18.48, 8: 20.09, 11: 24.72}  # by degrees of freedom
WARM: dict[str, Any] = {"temperature": 1.5, "top_p": 0.9}  # knobs that spread the answers of these tiny models


def drawn(temperature: float, top_p: float = 1.0, seed: int = 0) -> torch.Tensor:
    """How often each token came, in draws of different keys."""
    keys = torch.arange(DRAWS)
    made = ops.drawn(LOGITS.expand(DRAWS, -1), keys, torch.full_like(keys, 7), temperature, top_p, seed)
    return torch.bincount(made, minlength=len(LOGITS))


def chi_square(counts: torch.Tensor, chances: torch.Tensor) -> float:
    expected = DRAWS * chances
    assert expected.min() >= 5, "too few for the test"
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
def test_draws_have_the_chances_of_their_logits(temperature: float) -> None:
    chances = (LOGITS.double() / temperature).softmax(dim=0)
    counts = drawn(temperature)
    assert chi_square(counts, chances) < CHI_SQUARE_99[len(LOGITS) - 1]
    assert chi_square(counts, (LOGITS.double() / (temperature * 1.25)).softmax(dim=0)) > 60, "and of no others"


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.8), (2.0, 0.7), (1.0, 0.9)])
def test_draws_keep_to_the_nucleus_at_their_temperature(temperature: float, top_p: float) -> None:
    chances = (LOGITS.double() / temperature).softmax(dim=0)
    ranked = chances.argsort(descending=True)
    size = next(n for n in range(1, len(LOGITS) + 1) if float(chances[ranked[:n]].sum()) >= top_p)
    inside, outside = ranked[:size], ranked[size:]
    counts = drawn(temperature, top_p)
    assert int(counts[outside].sum()) == 0
    assert chi_square(counts[inside], chances[inside] / chances[inside].sum()) < CHI_SQUARE_99[size - 1]


@pytest.mark.parametrize(
    ("chances", "top_p", "expected"),
    [
        ([0.5, 0.25, 0.125, 0.125], 0.5, [0]),
        ([0.5, 0.25, 0.125, 0.125], 0.51, [0, 1]),
        ([0.125, 0.25, 0.5, 0.125], 0.75, [1, 2]),
        ([0.25, 0.25, 0.25, 0.25], 0.5, [0, 1]),
        ([0.125, 0.125, 0.25, 0.5], 1e-9, [3]),
        ([0.5, 0.25, 0.125, 0.125], 0.999, [0, 1, 2, 3]),
    ],
)
def test_a_nucleus_is_the_fewest_tokens_that_reach_its_chance(
    chances: list[float], top_p: float, expected: list[int]
) -> None:
    found = ops.nucleus(torch.tensor([chances, chances]).log(), top_p)
    assert [row.nonzero().flatten().tolist() for row in found] == [expected, expected]


def test_a_cold_draw_is_the_likeliest_whatever_the_size_of_logits() -> None:
    logits = 50 * torch.randn(64, 500, generator=torch.Generator().manual_seed(0))
    keys = torch.arange(64)
    for temperature in (1e-6, 1e-37):
        assert torch.equal(ops.drawn(logits, keys, keys, temperature, 1.0, 0), ops.likeliest(logits))
        assert torch.equal(ops.drawn(logits, keys, keys, temperature, 0.5, 0), ops.likeliest(logits))


def test_a_row_is_drawn_alike_in_any_batch() -> None:
    logits = torch.randn(32, 200, generator=torch.Generator().manual_seed(0))
    keys, positions = torch.arange(32) * 3, torch.arange(32) % 5
    for top_p in (1.0, 0.9):
        whole = ops.drawn(logits, keys, positions, 1.0, top_p, 4)
        order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
        assert torch.equal(ops.drawn(logits[order], keys[order], positions[order], 1.0, top_p, 4), whole[order])
        alone = [ops.drawn(logits[[i]], keys[[i]], positions[[i]], 1.0, top_p, 4) for i in range(32)]
        assert torch.equal(torch.cat(alone), whole)


def test_the_hash_is_splitmix64() -> None:
    """Against its published first outputs of seed 0, and arithmetic without end at the ends of int64."""
    mask = 2**64 - 1
    stream = ops._mixed(torch.arange(3) * ops.GOLDEN)
    assert [int(n) & mask for n in stream] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]

    def told(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        return state ^ (state >> 31)

    states = [-1, 1, 2**63 - 1, -(2**63), 123456789]
    assert [int(n) & mask for n in ops._mixed(torch.tensor(states))] == [told(s & mask) for s in states]


def test_noise_is_uniform_and_neighbours_have_none_in_common() -> None:
    keys, positions = (t.flatten() for t in torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij"))
    noise = ops.uniforms(keys, positions, 100, 0)
    assert noise.dtype == torch.float32
    assert noise.min() > 0
    assert noise.max() < 1
    counts = torch.histc(noise, bins=100, min=0.0, max=1.0)
    assert float(((counts - 1600) ** 2 / 1600).sum()) < 134.6, "chi-square, 99 degrees of freedom, 99%"
    cube = noise.view(40, 40, 100)
    others = {
        "key": (cube[1:], cube[:-1]),
        "position": (cube[:, 1:], cube[:, :-1]),
        "token": (cube[:, :, 1:], cube[:, :, :-1]),
        "key for position": (cube, cube.transpose(0, 1)),
        "next key for last position": (cube[1:, :-1], cube[:-1, 1:]),
        "seed": (noise, ops.uniforms(keys, positions, 100, 1)),
        "seed for key": (cube[1:], ops.uniforms(keys, positions, 100, 1).view(40, 40, 100)[:-1]),
    }
    off_diagonal = ~torch.eye(40, dtype=torch.bool)
    for name, (one, other) in others.items():
        if name == "key for position":
            one, other = one[off_diagonal], other[off_diagonal]
        together = torch.stack([one.flatten(), other.flatten()])
        assert abs(float(torch.corrcoef(together)[0, 1])) < 0.01, name  # 4 deviations of 160,000 pairs
        assert float((together[0] == together[1]).float().mean()) < 1e-3, name


@pytest.mark.parametrize("bits", [0, -1])
def test_the_ends_of_the_hash_give_finite_noise(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    monkeypatch.setattr(ops, "_mixed", lambda state: torch.full_like(state, bits))
    noise = ops.uniforms(torch.arange(2), torch.arange(2), 3, 0)
    assert noise.min() > 0
    assert noise.max() < 1


def test_noise_is_finest_where_the_likeliest_is() -> None:
    """A few of the highest of a large vocabulary decide: they must not be tied by rounding."""
    lowest = (
        ops.uniforms(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), 2_000_000, 0).sort().values
    )
    assert lowest[0, :1000].unique().numel() == 1000
    assert float(lowest[0, 0]) < 1e-5


def test_the_smallest_number_is_the_highest_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that float32 could not tell from 1 if they were taken from it."""
    monkeypatch.setattr(ops, "uniforms", lambda *_: torch.tensor([[3e-9, 1e-9, 2e-9]]))
    assert ops.drawn(torch.zeros(1, 3), torch.zeros(1), torch.zeros(1), 1.0, 1.0, 0).tolist() == [1]


def alone(folder: Path, prompts: list[str], tokens: int, **knobs: Any) -> list[Completion]:
    """Each prompt by itself in the eager engine, its place in the list its key, nothing shared: the reference."""
    session = EagerSession(Eager(batch_size=1, min_prefix=0, **knobs), load(folder, CONTEXT), CONTEXT)
    found = []
    for key, prompt in enumerate(prompts):
        with torch.inference_mode():
            ((ids, finished),) = session._decode(session.encode([prompt], 0), [key], tokens, None, 0)
        found.append(Completion(session.tokenizer.decode(ids, skip_special_tokens=True), len(ids), finished))
    return found


@pytest.mark.parametrize("name", ["llama", "qwen3, with normed heads"])
@pytest.mark.parametrize("knobs", [WARM, {"temperature": 0.8}])
def test_both_engines_draw_the_same_answers_at_any_batch_size(tmp_path: Path, name: str, knobs: dict[str, Any]) -> None:
    folder = saved(tmp_path, *MODELS[name])
    prompts = [*longer(), *PROMPTS]
    told = alone(folder, prompts, 24, **knobs)
    assert {c.finished for c in told} == {True, False}, "both ways to end must occur"
    greedy = EagerSession(Eager(), load(folder, CONTEXT), CONTEXT).generate(prompts, 24)
    assert sum(a != b for a, b in zip(told, greedy, strict=True)) > len(prompts) / 2
    for batch in (3, 32):
        session: Any = Graph(batch_size=batch, **knobs).start(folder, CONTEXT)
        assert isinstance(session, GraphSession)
        assert session.generate(prompts, 24) == told
        assert session.generate(prompts, 24) == told, "the same call gives the same answers again"
        asked = [Request(ids, 24, key=i) for i, ids in enumerate(session.eager.encode(prompts, 24))][::-1]
        made = serve(session.slots(batch, 160), asked, session.eager.stops, rows=batch)[::-1]
        texts = session.tokenizer.batch_decode([m.tokens for m in made], skip_special_tokens=True)
        assert texts == [c.text for c in told], "in another order, each with its key"
        assert session.eager.generate(prompts, 24) == told
    for one in (session, session.eager):
        assert one.generate(prompts[5:], 24, keys=range(5, len(prompts))) == told[5:], "whatever is asked beside it"


@pytest.mark.parametrize("knobs", [{}, {"batch_size": 3, "compact_below": 1.01}, {"batch_size": 5, "min_prefix": 0}])
def test_shared_prefixes_pieces_and_compacted_batches_change_no_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knobs: dict[str, Any]
) -> None:
    folder = saved(tmp_path, *MODELS["llama"])
    prompts = [*PROMPTS, *PROMPTS[::-1], *PROMPTS]
    told = alone(folder, prompts, 40, **WARM)
    assert {c.finished for c in told} == {True, False}, "rows must leave the batch at different steps"
    monkeypatch.setattr("harness.engine.eager.PIECE_TOKENS", 60)
    session = Eager(**WARM, **knobs).start(folder, CONTEXT)
    assert isinstance(session, EagerSession)
    assert bool(session.no_prefix) == (knobs.get("min_prefix") != 0)
    assert session.generate(prompts, 40) == told


@pytest.mark.parametrize("engine", [Eager, Graph])
def test_a_prompt_said_twice_and_another_seed_get_other_answers(tmp_path: Path, engine: Callable[..., Any]) -> None:
    folder = saved(tmp_path, *MODELS["llama"])
    prompts = PROMPTS[:1] * 6
    by_seed = [engine(**WARM).start(folder, replace(CONTEXT, seed=seed)).generate(prompts, 20) for seed in (0, 1, 0)]
    assert by_seed[0] == by_seed[2]
    assert len({c.text for made in by_seed[:2] for c in made}) == 12


@pytest.mark.parametrize("engine", [Eager, Graph])
def test_a_cold_engine_is_greedy(tmp_path: Path, engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, *MODELS["llama"])
    cold = engine(temperature=1e-6, top_p=0.9).start(folder, CONTEXT).generate(longer(), 40)

    def never(*_: Any) -> Any:
        raise AssertionError("greedy engines draw nothing")

    monkeypatch.setattr(ops, "drawn", never)
    assert cold == engine(top_p=0.9).start(folder, CONTEXT).generate(longer(), 40)


@pytest.mark.parametrize("engine", [Eager, Graph])
def test_what_is_timed_is_drawn_as_what_is_answered(
    tmp_path: Path, engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = engine(**WARM).start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    seen: list[list[tuple[int, int]]] = []
    told = ops.drawn

    def noted(logits: Any, keys: Any, positions: Any, *rest: Any) -> Any:
        seen.append(sorted(zip(keys.tolist(), positions.tolist(), strict=True)))
        return told(logits, keys, positions, *rest)

    monkeypatch.setattr(ops, "drawn", noted)
    length = len(PROMPTS[0])  # a token a character
    session.time_tokens(PROMPTS[0], 4)
    assert seen == [[(0, length - 1 + n)] for n in range(4)]
    seen.clear()
    session.time_batch(PROMPTS[:2], 3)
    ends = [len(p) - 1 for p in PROMPTS[:2]]
    asked = [call for step in seen for call in step]
    assert sorted(asked) == [(key, ends[key] + n) for key in range(2) for n in range(3)]


@pytest.mark.parametrize("engine", [Eager, Graph])
@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"temperature": -0.1}, "temperature=-0.1: must be 0"),
        ({"temperature": float("nan")}, "temperature=nan: must be 0"),
        ({"temperature": float("inf")}, "temperature=inf: must be 0"),
        ({"top_p": 0.0}, "top_p=0.0: must be more than 0"),
        ({"top_p": 1.01}, r"top_p=1.01: .* at most 1"),
    ],
)
def test_knobs_that_choose_nothing_are_told(engine: Callable[..., Any], knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        engine(**knobs)
