"""What every shipped suite promises: enough rows, reference replies that score 1, no leak, lm-eval reads it."""

from __future__ import annotations

import re

import pytest

from harness.suites.check import check, config_of
from tests.suites.loading import FOLDER, rows, scorers

SUITES = ("domain_vocabulary", "support_tone", "ticket_routing", "tool_json")  # beside which a user's own may stand


def test_the_four_suites_are_there() -> None:
    assert {*SUITES} <= {p.parent.name for p in FOLDER.glob("*/task.yaml")}


@pytest.mark.parametrize("name", SUITES)
def test_a_shipped_suite_has_no_mistake_and_a_filled_card(name: str) -> None:
    mistakes, warnings, facts = check(name)
    assert mistakes == []
    assert not [
        w for alike in warnings for w in alike if "card.md" in w or "like training" in w or "like knowledge" in w
    ], warnings
    train, validation, evaluation = map(int, re.findall(r"(\d+) \w+ rows", facts[0])[:3])
    assert train + validation >= 500
    assert evaluation >= 250


@pytest.mark.parametrize("name", SUITES)
def test_splits_share_no_group_and_no_id(name: str) -> None:
    train, held = rows(name, "train"), rows(name, "eval")
    assert not {r["group"] for r in train} & {r["group"] for r in held}
    assert not {r["id"] for r in train} & {r["id"] for r in held}


@pytest.mark.parametrize("name", SUITES)
def test_an_empty_answer_passes_nothing(name: str) -> None:
    module, primary = scorers(name), config_of(name).params["primary"]
    assert all(module.process_results(row, [""])[primary] == 0 for row in rows(name, "eval"))


@pytest.mark.parametrize("name", SUITES)
def test_lm_eval_knows_the_task_and_all_its_scores(name: str) -> None:
    tasks = pytest.importorskip("lm_eval.tasks")
    manager = tasks.TaskManager(include_path=str(FOLDER / name), include_defaults=False)
    task = manager.load(name)["tasks"][name]
    docs = list(task.test_docs())
    assert len(docs) == len(rows(name, "eval"))
    given = {score for doc in docs for score in task.process_results(doc, [doc["reply"]])}
    assert given == set(task.aggregation())


def test_examples_are_asked_as_the_suite_calls_them() -> None:
    assert {config_of(name).params["asked"] for name in SUITES} == {"Email", "Ticket", "Request"}
