"""Each score of domain_vocabulary catches its own fault."""

from __future__ import annotations

from typing import Any

import pytest

from tests.suites.loading import rows, scorers

SCORERS = scorers("domain_vocabulary")
I10 = "I10 Essential (primary) hypertension"
E119 = "E11.9 Type 2 diabetes mellitus without complications"
WANTED = f"{I10}\n{E119}"


def scored(reply: str) -> dict[str, float]:
    found: dict[str, float] = SCORERS.process_results({"kind": "coding", "reply": WANTED}, [reply])
    return found


def test_the_reference_passes_in_any_order() -> None:
    best = {"exact": 1, "code_precision": 1, "code_recall": 1, "code_f1": 1, "wording_exact": 1, "invented_codes": 0}
    assert scored(WANTED) == best
    assert scored(f"{E119}\n\n{I10}") == best


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (I10, {"exact": 0, "code_recall": 0.5, "code_precision": 1, "code_f1": 2 / 3, "wording_exact": 1}),
        (f"{WANTED}\nJ45.909 Unspecified asthma, uncomplicated",
         {"exact": 0, "code_recall": 1, "code_precision": 2 / 3, "code_f1": 0.8, "wording_exact": 1,
          "invented_codes": 0}),
        (f"{WANTED}\nQ99.99 Something", {"exact": 0, "invented_codes": 1 / 3, "wording_exact": 0}),
        (f"I10 Hypertension\n{E119}", {"exact": 0, "code_f1": 1, "wording_exact": 0}),
        (f"{I10}\n{I10}\n{E119}", {"exact": 0, "code_f1": 1}),
        (f"Codes:\n{WANTED}", {"exact": 0, "code_f1": 1, "wording_exact": 1}),
        (f"I10\n{E119}", {"exact": 0, "code_f1": 1, "wording_exact": 0}),
        ("Hypertension and diabetes", {"exact": 0, "code_precision": 0, "code_recall": 0, "code_f1": 0,
                                       "wording_exact": 0, "invented_codes": 0}),
    ],
)  # fmt: skip
def test_a_planted_fault_is_told_apart(reply: str, expected: dict[str, float]) -> None:
    found = scored(reply)
    assert {k: found[k] for k in expected} == pytest.approx(expected)


CLAUSE: dict[str, Any] = {
    "kind": "clause", "fills": ["Acme Ltd", "30"], "reply": "Acme Ltd shall pay within 30 days of the invoice.",
}  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "exact", "filled"),
    [
        (CLAUSE["reply"], 1, 1.0),
        ("Acme Ltd  shall pay\nwithin 30 days of the invoice.", 1, 1.0),
        ("Acme Ltd shall pay within 300 days of the invoice.", 0, 0.5),
        ("Acme Ltd shall pay within 30,000 days of the invoice.", 0, 0.5),
        ("Acme Ltd shall pay within 30.5 days of the invoice.", 0, 0.5),
        ("Acme Ltd shall pay within 1,30 days of the invoice.", 0, 0.5),
        ("Acme Ltd shall pay within 30, days of the invoice.", 0, 1.0),
        ("Acme Ltd will pay within 30 days of the invoice.", 0, 1.0),
        ("{PARTY_A} shall pay within {DAYS} days of the invoice.", 0, 0.0),
        ("Here it is: " + CLAUSE["reply"], 0, 1.0),
        ("Acme Ltd shall within pay 30 days of the invoice.", 0, 1.0),
        ("", 0, 0.0),
    ],
)
def test_a_clause_is_exact_or_it_is_not(reply: str, exact: int, filled: float) -> None:
    found = SCORERS.process_results(CLAUSE, [reply])
    assert (found["exact"], found["clause_exact"], found["blanks_filled"]) == (exact, exact, filled)
    assert (found["clause_similarity"] == 1) is bool(exact)


def test_rows_of_both_kinds_are_there_with_their_articles() -> None:
    articles = {r["id"]: r for r in rows("domain_vocabulary", "kb")}
    for file in ("train", "eval"):
        found = rows("domain_vocabulary", file)
        assert {r["kind"] for r in found} == {"coding", "clause"}
        for r in found:
            if r["kind"] == "coding":
                assert all(articles[code]["title"] == words for code, words in SCORERS.coded(r["reply"]))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"kind": "coding", "reply": "Z99.999 Nothing"}, "code Z99.999 is not in ICD-10-CM"),
        ({"kind": "coding", "reply": "I10 Hypertension"}, "officially 'Essential (primary) hypertension'"),
        ({"kind": "coding", "reply": "hypertension"}, "not a code and its wording"),
        ({"kind": "clause", "fills": ["40"], "reply": "30 days"}, "value '40' is not in the reply"),
        ({"kind": "poem", "reply": "x"}, "choose coding or clause"),
    ],
)
def test_a_bad_row_is_told(row: dict[str, Any], told: str) -> None:
    assert told in SCORERS.check(row)[0]
