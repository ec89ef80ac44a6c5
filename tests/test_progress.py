"""What is said while a grid runs: text of others is shown as it is, and the time left is that of this grid's models."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness import grid as whole
from harness.plan import plan
from harness.progress import Board
from harness.records import ONE_STEP
from harness.store import MANIFEST, Store, sealed, write_json
from harness.types import WAITS, Component, Measurement, Status, StepKind
from harness.wording import number
from tests import records
from tests.cells import MACHINE, cell, data_of

ODD = "expected [/INST] after [INST]"  # in rich's markup an end without its beginning, and a style
TARGETS = "adaptation.targets=[q_proj,v_proj]"


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=300)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def board(console: Console) -> tuple[Board, Any]:
    """A board of one cell whose names are odd, and a step of it."""
    one = replace(cell(), adaptation=Component("[int4, int8]", "harness.adapt.prompt_rag.PromptRag", {}))
    one = replace(one, suite=replace(one.suite, params={**one.suite.params, "primary": "[good]"}))
    made = plan([one], data_of([one]), MACHINE)
    step = next(s for s in made.steps.values() if s.kind is StepKind.ADAPT)
    return Board(made, console, {}, lambda: None), step


def test_lines_show_the_text_of_others_as_it_is(console: Console) -> None:
    heard, step = board(console)
    heard.started(step)
    heard.progressed(step, 0.5, f"half {ODD}")
    heard.ended(step, f"ended {ODD}", 1.0)
    heard.started(step)
    heard.ended(step, None, 1.0)
    heard.cell(replace(records.ended("lora", "int8", Status.FAILED, f"cell {ODD}"), id=f"a/b/c/d/{TARGETS}"))
    lines = said(console).splitlines()
    assert len(lines) == 6
    assert all("[int4, int8]" in line for line in lines[:5])
    assert [word for word in ("half", "ended", "cell") if f"{word} {ODD}" in said(console)] == ["half", "ended", "cell"]
    assert f"a/b/c/d/{TARGETS}" in lines[5]


def test_a_cells_numbers_are_said_as_its_report_says_them(console: Console) -> None:
    heard, _ = board(console)
    slow = records.with_value(records.record("lora", "int8"), "e2e_ms/p95", 9466.4)
    rate = Measurement("throughput_tokens_per_s", 7.0, "tok/s", "higher", 4)
    heard.cell(replace(slow, measurements=(rate, *slow.measurements)))
    heard.cell(replace(slow, not_measured={"itl_ms": ONE_STEP}))
    assert "p95, one step 9.47 s" in said(console)
    assert "  p95, 4 tokens 9.47 s  tok/s 7.00\n" in re.sub(r"p95, \d+ tokens", "p95, 4 tokens", said(console))


def test_a_cells_score_is_its_own_suites(console: Console) -> None:
    """Whichever suite the first cell is of; their column is then of no score by name."""
    several = [cell("adaptation=lora", f"suite={suite}") for suite in ("support_tone", "tool_json")]
    heard = Board(plan(several, data_of(several), MACHINE), console, {}, lambda: None)
    made = records.record("lora", "int8")
    suite = {**made.config["suite"], "params": {"primary": "facts"}}
    heard.cell(replace(made, config={**made.config, "suite": suite}))
    (line,) = said(console).splitlines()
    facts = made.value("quality/facts")
    assert facts
    assert f"  quality {number(facts.value, facts.unit)}  " in line
    console.print(heard.render())
    assert re.search(r"step at work +┃ quality +┃", said(console))


def test_the_table_shows_the_text_of_others_as_it_is(console: Console) -> None:
    heard, step = board(console)
    heard.started(step)
    heard.progressed(step, 0.5, ODD)
    console.print(heard.render())
    heard.records[heard.plan.cells[0].id] = records.ended("lora", "int8", Status.FAILED, f"ended {ODD}")
    console.print(heard.render())
    assert said(console).count("[int4, int8]/fp16") == said(console).count("[good]") == 2
    assert f"━━━━──── {ODD}" in said(console)
    assert f"ended {ODD}" in said(console)


def test_rows_and_steps_tell_cells_apart(console: Console) -> None:
    several = [
        replace(cell("adaptation=lora", f"suite={suite}", f"seed={seed}"), variant=variant)
        for suite in ("support_tone", "tool_json") for seed in (0, 1)
        for variant in ("adaptation.rank=8", "adaptation.rank=16")
    ]  # fmt: skip
    several = [replace(c, adaptation=replace(c.adaptation, params={**c.adaptation.params, "rank": int(c.variant[16:])}))
               for c in several]  # fmt: skip
    data = {key: replace(d, training_digest=key, evaluation_digest=key) for key, d in data_of(several).items()}
    made = plan(several, data, MACHINE)
    heard = Board(made, console, {}, lambda: None)
    assert len({heard._row(c)[0] for c in several}) == len(several) == 8
    assert len({(s.kind, s.title) for s in made.steps.values()}) == len(made.steps)
    assert "lora · smollm2_135m · tool_json · seed1 · adaptation.rank=8" in {s.title for s in made.steps.values()}
    assert [s.title for s in made.steps.values() if s.kind is StepKind.BASE] == ["smollm2_135m"]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("file", "term", "moves"), [(Screen, "xterm", True), (Screen, "dumb", False), (io.StringIO, "xterm", False)]
)
def test_only_a_terminal_that_can_move_up_gets_a_live_table(file: type[io.StringIO], term: str, moves: bool) -> None:
    """Whatever FORCE_COLOR says, by which rich takes a log for a terminal."""
    console = Console(file=file(), _environ={"TERM": term, "FORCE_COLOR": "1"})
    heard, step = board(console)
    heard.started(step)
    assert ("start" in said(console)) is not moves


def test_a_wait_for_others_is_told(console: Console) -> None:
    heard, step = board(console)
    heard.started(step)
    heard.progressed(step, 0.0, WAITS)
    heard.progressed(step, 0.0, "")
    assert [line.endswith(WAITS) for line in said(console).splitlines()] == [False, True]


def test_a_grids_first_and_last_words_show_the_text_of_others_as_it_is(console: Console) -> None:
    made: Any = SimpleNamespace(cells=[cell()], steps={}, chains={})
    grid: Any = SimpleNamespace(choices={"profile": "[quick]"}, store=None, cells=(), data={})
    whole._announce(made, [], replace(MACHINE, hardware="Xeon [/x] [4]"), grid, console)
    whole._conclude(made, grid, Path("[/out]/report.html"), [f"sentence {ODD}"], console, 0.0)
    for text in ("Xeon [/x] [4]", "profile [quick]", f"sentence {ODD}", "report: [/out]/report.html"):
        assert text in said(console)


def test_the_time_left_is_that_of_the_models_of_this_grid(tmp_path: Path) -> None:
    """Whatever was built of them before; another model may take hundreds of times as long."""
    store = Store(tmp_path)
    for model, seconds in (("dummy_tiny", 1.0), ("dummy_1b", 100.0)):
        one = cell(f"model={model}", "adaptation=lora")
        for step in plan([one], data_of([one]), MACHINE).steps.values():
            store.build(step, lambda _: {}, {})
            manifest = store.manifest(step)
            assert manifest
            write_json(store.folder(step) / MANIFEST, sealed({**manifest, "seconds": seconds}))
    one = cell("model=dummy_tiny", "adaptation=full_ft")
    found = whole._expected(store, plan([one], data_of([one]), MACHINE))
    timed = ("latency", "latency · lora")
    assert {("base", "dummy_tiny"), ("adapt", "lora · dummy_tiny"), ("quantize", "fp16"), timed} == {*found}
    assert [*found.values()] == 4 * [[1.0]]


def test_the_time_left_of_a_first_run_is_that_of_steps_like_those_that_ended(console: Console) -> None:
    """Told when all trainings are known; until then nobody knows whether the next takes seconds or an hour."""
    kinds = [(a, q) for a in ("prompt_rag", "lora") for q in ("fp16", "gptq")]
    cells = [cell(f"adaptation={a}", f"quantization={q}") for a, q in kinds]
    heard = Board(plan(cells, data_of(cells), MACHINE), console, {}, lambda: None)
    launcher: Any = SimpleNamespace(done=set(), failed={}, workers=2)
    heard.launcher = launcher
    by_title = {s.title: s for s in heard.plan.steps.values()}
    told = []
    for title, seconds in (
        ("smollm2_135m", 5.0), ("prompt_rag · smollm2_135m", 4.0), ("fp16 · prompt_rag", 1.0),
        ("latency · prompt_rag/fp16", 20.0), ("quality · prompt_rag/fp16", 90.0), ("gptq · prompt_rag", 60.0),
        ("quality · prompt_rag/gptq", 110.0), ("lora · smollm2_135m", 300.0), ("fp16 · lora", 1.0),
        ("quality · lora/fp16", 50.0), ("gptq · lora", 60.0), ("quality · lora/gptq", 70.0),
        ("latency · prompt_rag/gptq", 60.0), ("latency · lora/fp16", 10.0), ("latency · lora/gptq", 50.0),
    ):  # fmt: skip
        launcher.done.add(by_title[title].key)
        heard.started(by_title[title])
        heard.ended(by_title[title], None, seconds)
        told.append(said(console).splitlines()[-1].partition(f"{seconds} s")[2].strip(" ()"))
    assert told == [
        *(f"{n} steps left" for n in range(14, 7, -1)),
        *(f"about {clock} left" for clock in ("3:10", "3:10", "1:55", "1:25", "1:00", "1:20", "0:10")), "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "told"),
    [(["adaptation=lora"], "p95, 16 tokens"), (["suite=ticket_routing", "adaptation=lora_head"], "p95")],
)
def test_a_p95_names_how_long_its_answers_are(console: Console, overrides: list[str], told: str) -> None:
    one = cell(*overrides)
    heard = Board(plan([one], data_of([one]), MACHINE), console, {}, lambda: None)
    console.print(heard.render())
    assert heard.p95 == told
    assert f"{told} " in said(console)
