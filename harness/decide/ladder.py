"""Where a team stands on the usual way up, prompting with retrieval, LoRA, quantization, full fine-tuning, and the next
step worth trying, from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from harness.decide.cells import (
    Rows,
    compare,
    curve_of,
    is_quantized,
    kin,
    parent_of,
    primary,
    quality,
    simplicity,
    variant,
)
from harness.decide.evidence import PRACTICAL, good_enough, lacked
from harness.decide.facts import Candidate
from harness.decide.findings import Rung
from harness.decide.policy import Policy
from harness.decide.rule import holds
from harness.statistics import Paired
from harness.types import RunRecord, Status, is_side
from harness.wording import share, told

TAKEN, NEXT, NOT_NEEDED, OPEN, NOT_MEASURED = "taken", "next", "not needed", "open", "not measured"
Named = Mapping[str, str]


STEPS = {"prompt": ("prompt_rag", "as_is"), "lora": ("lora", "lora_head"), "full": ("full_ft",)}  # and adaptations
SHIP, TRY, BEST = "the one to ship", "the first to try", "the one of highest quality measured"
EQUAL = "as good as any other measured"


def ladder(
    records: Sequence[RunRecord], rows: Rows, policy: Policy, chosen: RunRecord | None, names: Named,
    measured: Sequence[Candidate], role: str = SHIP, skilled: bool = True,
) -> tuple[Rung, ...]:  # fmt: skip
    """Four rungs. `records` may hold the parts of a learning curve; `chosen` is None where nothing was chosen, and else
    has a `role`. Where no cell is `skilled`, what adds quality alone comes next. Cells of the chosen one's suite, model
    and seed are compared."""
    ok = [
        r for r in records
        if r.status is Status.OK and (m := quality(r, policy)) and m.better == "higher" and not is_side(r.id)
    ]  # fmt: skip
    if not ok:
        return ()
    top = _quality(policy)
    stand = chosen or min(ok, key=lambda r: (-top(r), *simplicity(r)))
    if chosen is None:
        role = BEST if all(top(r) < top(stand) for r in ok if r is not stand) else EQUAL
    near = [r for r in records if _ladder_of(r) == _ladder_of(stand)]
    seeded = {r.adaptation for r in records if r.seed != stand.seed}  # elsewhere their names stand for all seeds
    names = {**names, **{r.id: f"{names[r.id]} (seed {r.seed} alone)" for r in near if r.adaptation in seeded}}
    ids, bad = {r.id for r in near}, [r for r in near if r.status is not Status.OK and not is_side(r.id)]
    ok = [r for r in ok if r.id in ids]
    by = {kind: [r for r in ok if r.adaptation in adaptations] for kind, adaptations in STEPS.items()}
    of = f" of {stand.model}" if len({r.model for r in records}) > 1 else ""

    def versus(a: RunRecord, b: RunRecord) -> Paired | None:
        return compare(a, b, rows, primary(a, policy))

    rungs = [
        _prompt(by["prompt"], stand, policy, names, role),
        _trained("LoRA", "lora", "prompt", by, stand, policy, versus, names, bad, of),
        _quantized(ok, stand, policy, versus, names, role, bad),
        _trained(
            "Full fine-tuning", "full", "lora" if by["lora"] else "prompt", by, stand, policy, versus, names, bad, of
        ),
    ]  # fmt: skip
    return tuple(_with_next(rungs, records, rows, policy, chosen, stand, names, measured, skilled))


def _ladder_of(r: RunRecord) -> tuple[object, ...]:
    """What cells have in common that are steps of one ladder: another model's cell is none, however it was named."""
    return r.suite, r.model, r.seed, [knob for knob in variant(r).split(",") if knob.startswith("model.")]


def _quality(policy: Policy) -> Callable[[RunRecord], float]:
    return lambda r: m.value if (m := quality(r, policy)) else 0.0


def _prompt(cells: Sequence[RunRecord], stand: RunRecord, policy: Policy, names: Named, role: str) -> Rung:
    name = "Prompt and retrieval"
    if not cells:
        return Rung(name, NOT_MEASURED, "No cell answers by prompting alone, so what training adds is open.")
    cell = max(cells, key=_quality(policy))
    alone = "The model as it came" if cell.adaptation == "as_is" else "Prompting alone"
    text = f"{alone} reaches {share(_quality(policy)(cell))} ({names[cell.id]})"
    enough = stand.adaptation in STEPS["prompt"] and role == SHIP and policy.min_quality is not None
    return Rung(name, TAKEN, text + (", and that is enough." if enough else "."))


def _missing(name: str, tried: Iterable[RunRecord], names: Named, why: str) -> Rung:
    """A rung without a cell that ended ok: how one that was `tried` ended, which makes it no step to try next."""
    one = next(iter(tried), None)
    if one is None:
        return Rung(name, NOT_MEASURED, why)
    how = "failed" if one.status is Status.FAILED else "cannot run here"
    return Rung(name, str(one.status), f"Tried as {names[one.id]}, which {how}: {one.reason or 'no reason was given'}.")


def _trained(
    name: str, kind: str, below: str, by: Mapping[str, Sequence[RunRecord]], stand: RunRecord, policy: Policy,
    versus: Callable[[RunRecord, RunRecord], Paired | None], names: Named, bad: Sequence[RunRecord], of: str,
) -> Rung:  # fmt: skip
    if not by[kind]:
        tried = (r for r in bad if r.adaptation in STEPS[kind])
        return _missing(name, tried, names, f"No cell{of} that ended ok is trained so.")
    mine = max(by[kind], key=_quality(policy))
    other = max(by[below], key=_quality(policy), default=None)
    standing = stand.adaptation in STEPS[kind]
    pair = versus(mine, other) if other else None
    if pair is None or other is None:
        return Rung(name, TAKEN if standing else OPEN, f"Measured as {names[mine.id]}, with nothing to compare.")
    pairs = len(by[kind]) * len(by[below])  # each the best of as many: Bonferroni
    sure = pair.p * pairs < 0.05
    gains, loses = sure and pair.low > 0, sure and pair.high < 0
    whole = parent_of(other, by[below])
    alone = versus(mine, whole) if whole else None  # luck helped the best of several
    may_gain = max(policy.margin, PRACTICAL) < (pair if gains or loses else alone or pair).high
    if gains or loses:
        added = f"It is shown to {'add' if gains else 'lose'} quality"
    else:
        added = "These rows leave open whether it adds quality" if may_gain else "It is not shown to add quality"
    passed = gains and kind == "lora" and stand.adaptation == "full_ft"
    state = TAKEN if standing or passed else OPEN if may_gain and not gains else NOT_NEEDED
    luck = f", the best of {pairs} such pairs" if pair.low > 0 and not gains and pairs > 1 else ""
    return Rung(name, state, f"{added}: {names[mine.id]} against {names[other.id]}: {told(pair, 0.0)}{luck}.")


def _quantized(
    ok: Sequence[RunRecord], stand: RunRecord, policy: Policy,
    versus: Callable[[RunRecord, RunRecord], Paired | None], names: Named, role: str, bad: Sequence[RunRecord],
) -> Rung:  # fmt: skip
    name = "Quantization or a smaller model"

    def is_small(r: RunRecord) -> bool:
        return (*kin(r), r.adaptation) == (*kin(stand), stand.adaptation) and is_quantized(r)

    small = [r for r in ok if is_small(r)]
    if not small:
        return _missing(name, filter(is_small, bad), names, f"No quantization of {names[stand.id]} was measured.")
    mine = stand if stand in small else max(small, key=_quality(policy))
    whole = parent_of(mine, ok)
    pair = versus(mine, whole) if whole else None
    text = names[mine.id]
    text += f" against {names[whole.id]}: {told(pair, -policy.margin)}" if pair and whole else ""
    if stand in small:
        return Rung(name, TAKEN, f"The quantized cell is {role} ({text}).")
    state = OPEN if pair is None or pair.low <= -policy.margin <= pair.high else NOT_NEEDED
    return Rung(name, state, f"Measured, and the unquantized cell is {role} ({text}).")


def _with_next(
    rungs: list[Rung], records: Sequence[RunRecord], rows: Rows, policy: Policy, chosen: RunRecord | None,
    stand: RunRecord, names: Named, measured: Sequence[Candidate], skilled: bool,
) -> list[Rung]:  # fmt: skip
    """Marks the next step: the first rung that was not measured and that the evidence asks for. Below the floor it is
    one that adds quality; with all of them measured, the learning curve says whether more rows would help. Where only
    the share of valid outputs lacks, it is none of them."""
    short = chosen is None
    enough = good_enough(measured, policy) if short and skilled else []
    if lacked(enough, policy):
        return rungs
    invalid = any(
        c.valid is not None and not holds(c, policy) and holds(c, replace(policy, min_valid=None)) for c in enough
    )
    wanted: tuple[int, ...] = () if invalid else (2,) if enough else (1, 3, 2) if short else (1, 2)
    wanted = wanted if skilled else (1, 3)
    at = next((n for n in wanted if rungs[n].state == NOT_MEASURED), None)
    if at == 1 and not short and policy.min_quality is not None:
        at = 2 if rungs[2].state == NOT_MEASURED else None  # prompting holds the floor already
    if at is not None:
        full = rungs[3].state in (TAKEN, OPEN)
        may = "it may add as much as full fine-tuning, for less" if full else ""
        why = {
            1: f"LoRA is the next step worth trying: {may or 'it is the cheapest way to learn what training adds'}.",
            2: f"Quantization of {names[stand.id]} is the next step worth trying: it was not measured here.",
            3: "Full fine-tuning is the next step worth trying: no cell measured so far can be recommended.",
        }[at]
        rungs[at] = Rung(rungs[at].name, NEXT, why)
        return rungs
    parts = curve_of(stand, records)
    last = compare(stand, parts[-1], rows, primary(stand, policy)) if parts else None
    if enough:
        text = "Quality is enough, and something else that the policy asks for leaves no cell: a smaller model, a "
        text += "machine with more speed or memory, or a looser limit comes next."
        if invalid:
            text = "Quality is enough, and too few outputs are valid: more room for answers (suite.max_new_tokens), "
            text += "answers within a grammar (engine.constrained), or a looser limit (policy.min_valid) comes next."
        rungs.append(Rung("Another model, machine or limit", NEXT, text))
    elif last is not None:
        state = NEXT if last.low > 0 else NOT_NEEDED if last.high < policy.margin else OPEN
        text = (
            f"The last part of the training rows added {told(last, 0.0, policy.margin)}, "
            + {
                NEXT: "so more rows would likely still help.",
                NOT_NEEDED: "less than the margin, so more of the same rows would not help much.",
                OPEN: "which leaves open whether more rows would help.",
            }[state]
        )
        rungs.append(Rung("More training rows", state, text))
    elif short:
        rungs.append(
            Rung("More training rows", NEXT, "All usual steps were tried: more rows, or a larger model, come next.")
        )
    return rungs
