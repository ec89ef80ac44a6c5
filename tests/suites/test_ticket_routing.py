"""ticket_routing reads a department strictly, and its macro-F1 is scikit-learn's."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.suites.loading import rows, scorers

SCORERS = scorers("ticket_routing")


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("billing", "billing"), ("Billing.", "billing"), ("`how_to`", "how_to"), ("How to", "how_to"),
        ("Department: bug-report", "bug_report"), ("sales\nbecause they ask for a quote", "sales"),
        ("billing or sales", "unparseable"), ("The department is billing", "unparseable"), ("", "unparseable"),
        ("bill", "unparseable"), ("billings", "unparseable"), ("unparseable", "unparseable"), ("other", "unparseable"),
    ],
)  # fmt: skip
def test_only_a_department_alone_counts(reply: str, found: str) -> None:
    assert SCORERS.predicted(reply) == found


def test_a_row_scores_the_recall_of_its_own_department() -> None:
    assert SCORERS.process_results({"reply": "sales"}, ["sales"]) == {
        "accuracy": 1, "parseable": 1, "macro_f1": ["sales", "sales"], "recall_sales": 1,
    }  # fmt: skip
    assert SCORERS.process_results({"reply": "sales"}, ["dunno"]) == {
        "accuracy": 0, "parseable": 0, "macro_f1": ["sales", "unparseable"], "recall_sales": 0,
    }  # fmt: skip
    assert SCORERS.process_results({"reply": "sales"}, ["billing"])["parseable"] == 1


def test_macro_f1_by_hand_and_as_scikit_learn_has_it() -> None:
    pairs = [["a", "a"], ["a", "b"], ["b", "b"], ["b", "unparseable"], ["c", "a"]]
    # a: 2·1/(2+2); b: 2·1/(2+2); c: 0
    assert SCORERS.macro_f1(pairs) == pytest.approx((0.5 + 0.5 + 0) / 3)
    metrics = pytest.importorskip("sklearn.metrics")
    true, guess = zip(*pairs, strict=True)
    assert SCORERS.macro_f1(pairs) == pytest.approx(
        metrics.f1_score(true, guess, labels=["a", "b", "c"], average="macro", zero_division=0)
    )


def test_rows_are_as_unbalanced_as_the_card_says() -> None:
    for file in ("train", "eval"):
        counts = Counter(r["reply"] for r in rows("ticket_routing", file))
        assert set(counts) == set(SCORERS.DEPARTMENTS)
        assert counts.most_common(1)[0][0] == "how_to"
        assert counts["how_to"] > 5 * counts["outage"]


def test_a_label_outside_the_list_is_told() -> None:
    assert SCORERS.check({"reply": "billing"}) == []
    assert "no department 'legal'; choose one of how_to, billing" in SCORERS.check({"reply": "legal"})[0]


def test_the_grammar_allows_the_departments_and_nothing_else() -> None:
    import re

    from harness.resources import resource

    text = (resource("suites") / "ticket_routing/output.lark").read_text(encoding="utf-8")
    assert tuple(re.findall(r'"(\w+)"', text)) == SCORERS.DEPARTMENTS
