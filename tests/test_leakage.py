"""The leakage guard finds what was planted, tells near from exact, and stays quick on many rows."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.configured import Grid
from harness.grid import _leakage
from harness.leakage import near, overlaps
from harness.store import Store
from harness.types import Article, Cell, Overlap, SuiteData, digest, plain
from tests.cells import cell, suite_data

SENTENCE = "The parcel that I ordered on Monday has still not arrived and the tracking page shows nothing new"


def row(name: str, message: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "message": message, **more}


def test_exact_is_exact_but_for_case_and_punctuation() -> None:
    held = [
        row("e0", "What is 7 - 2?"),
        row("e4", "C#"),
        row("e5", "👍"),
        row("e1", "Where is MY parcel"),
        row("e2", "Where is your parcel?", group="g"),
        row("e3", "Other"),
    ]
    train = [
        row("t4", "What is 7 + 2?"),
        row("t5", "C++"),
        row("t6", "👎"),
        row("t1", "where is my parcel?!"),
        row("t2", "Hello", group="g"),
        row("t3", "Where is my  parcel"),
    ]
    found = overlaps(held, train, [Article("a", "Other", "thing")], "message", "reply")
    assert [(o.kind, o.row, o.other) for o in found] == [("exact", "e1", "t1"), ("group", "e2", "t2")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("great :)", "great :("), ("Convert 5' to cm", 'Convert 5" to cm'), ("6'2\"?", "6'2"), ("Add .5", "Add 5"),
        ("What is 10²?", "What is 102?"), ("Add 1½", "Add 11⁄2"), ("👩\u200d💻", "👩💻"), ("می\u200cخواهم", "میخواهم"),
    ],
)  # fmt: skip
def test_marks_that_mean_something_tell_messages_apart(one: str, other: str) -> None:
    assert overlaps([row("e", one)], [row("t", other)], [], "message", "reply") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is it ?", "where is it"), ("« Oui »", '"oui"'), ("(.5), then", ".5 then!"), ("¿Qué?", "que\u0301"),
        ("退款？", "「退款」。"), ("'hello'", "“Hello”"), ("?!", "?!"), ("STRASSE", "straße"),
        ("I don’t see VAT", "I don't see VAT"), ("an e‑mail – or 7 − 2", "an e-mail - or 7 - 2"), ("wait…", "Wait"),
        ("Reset my pass\u00adword", "reset my password"), ("Reset\u200b my\u00a0password", "reset my password"),
        ("ＶＡＴ　（２）", "VAT (2)"), ("5′ and 6″", "5' and 6\""), ("I ❤\ufe0f it", "I ❤ it"), ("ﬁne", "fine"),
    ],
)  # fmt: skip
def test_marks_around_words_do_not(one: str, other: str) -> None:
    assert len(overlaps([row("e", one)], [row("t", other)], [], "message", "reply")) == 1


def test_an_article_that_is_the_answer_is_found() -> None:
    articles = [Article("a", "Returns", "Send it within 45 days."), Article("b", "Hours", "Nine to five")]
    held = [row("e1", "May I?", reply="send it within 45 days"), row("e2", "hours, nine to five"), row("e3", "Why")]
    found = overlaps(held, [], articles, "message", "reply")
    assert [(o.kind, o.row, o.source, o.other) for o in found] == [
        ("exact", "e1", "knowledge base", "a"), ("exact", "e2", "knowledge base", "b"),
    ]  # fmt: skip


def test_near_copies_are_found_with_their_similarity_and_exact_ones_left_to_the_other() -> None:
    held = [row("e1", SENTENCE), row("e2", "Please tell me how gift cards work"), row("e3", SENTENCE.upper() + "!")]
    train = [
        row("t1", SENTENCE.replace("Monday", "Tuesday")), row("t2", SENTENCE.replace("nothing new", "no news")),
        row("t3", "An unrelated question about the colour of tents"),
    ]  # fmt: skip
    found = near(held, train, [Article("a", "x", SENTENCE.replace("Monday", "Friday"))], "message")
    assert {(o.row, o.source, o.other) for o in found} == {
        ("e1", "training", "t2"), ("e3", "training", "t2"),  # the nearer of the two
        ("e1", "knowledge base", "a"), ("e3", "knowledge base", "a"),
    }  # fmt: skip
    assert all(o.kind == "near" and 0.75 < o.similarity < 1 for o in found)
    assert near(held, [row("t1", SENTENCE)], [], "message") == []


QUESTION = "Where do I change the VAT period for our second company?"
AROUND = (
    "Hello, I am writing for Moss Lane Dental. We moved in May and have a new accountant who asks many things. {} "
    "Thank you and kind regards, Edith, office manager of Moss Lane Dental, 4 Moss Lane."
)


@pytest.mark.parametrize("said", [QUESTION, QUESTION.lower().replace("our", "the"), QUESTION.replace(" ", "\n")])
def test_a_message_quoted_in_a_longer_text_is_found(said: str) -> None:
    """The rest of that text would dilute what the two have in common."""
    articles = [Article("a", "FAQ", f"Q: {said}\nA: {AROUND}"), Article("b", said, AROUND), Article("c", "x", AROUND)]
    found = near([row("e", QUESTION)], [row("t", AROUND.format(said))], articles, "message")
    assert {(o.source, o.other) for o in found} == {("training", "t"), ("knowledge base", "a")}
    assert all(o.kind == "near" and o.similarity > 0.8 for o in found)
    assert [o.other for o in near([row("e", QUESTION)], [], articles[1:], "message")] == ["b"]


def test_what_stands_in_a_longer_text_by_chance_is_no_quote() -> None:
    """A short message, and one whose pieces are strewn over a long text."""
    assert (
        near([row("e", "Where is it, please?")], [row("t", AROUND.format("Where is it, please?"))], [], "message") == []
    )
    pieces = [QUESTION[at : at + 14] for at in range(0, len(QUESTION), 7)]
    strewn = f" {AROUND} ".join(pieces)
    assert near([row("e", QUESTION)], [row("t", strewn)], [Article("a", "x", strewn)], "message") == []


def test_nothing_is_like_no_rows() -> None:
    assert near([], [row("t", SENTENCE)], [Article("a", "x", SENTENCE)], "message") == []
    assert near([row("e", SENTENCE)], [], [], "message") == []


def test_similarity_is_the_exact_one() -> None:
    a, b = "abcdefghij", "abcdefghiX"  # five-character pieces: 6 each, 5 shared
    (found,) = near([row("e", a)], [row("t", b)], [], "message")
    assert found.similarity == round(5 / 7, 3)


def test_a_letter_is_one_in_any_script() -> None:
    """By bytes, of which a letter may have three, any two Japanese texts had been a little alike."""
    (found,) = near([row("e", "あいうえおかきくけこ")], [row("t", "あいうえおかきくけさ")], [], "message")
    assert found.similarity == round(5 / 7, 3)


def test_planted_copies_among_many_rows_are_all_found() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(3_000)]

    def message() -> str:
        return " ".join(rng.choices(words, k=rng.randint(8, 40)))

    train = [row(f"t{i}", message()) for i in range(6_000)]
    held = [row(f"e{i}", message()) for i in range(300)]
    for i in range(0, 300, 3):
        copied = train[i * 19]["message"].split()
        copied[rng.randrange(len(copied))] = "planted"
        held[i]["message"] = " ".join(copied)
    found = {(o.row, o.other) for o in near(held, train, [], "message")}
    planted = {(f"e{i}", f"t{i * 19}") for i in range(0, 300, 3)}
    assert found <= planted
    assert len(found) >= 97  # the shortest rows lose a third of their pieces with a word


def swept(*variants: tuple[str, SuiteData]) -> Any:
    """What a grid reports whose suite is swept so: each cell's variant, and its rows."""
    cells: dict[str, Cell] = {}
    data: dict[str, SuiteData] = {}
    for variant, rows in variants:
        made = cell()
        made = replace(made, suite=replace(made.suite, params={**made.suite.params, "knob": variant}), variant=variant)
        cells[variant], data[digest(plain(made.suite))] = made, rows
    return _leakage(Grid(tuple(cells.values()), {}, data, Store(Path("s")), Path("r"), 1, False))["support_tone"]


def test_all_that_is_swept_of_a_suite_is_reported() -> None:
    train, exact = (row("t1", SENTENCE), row("t2", "Hello")), Overlap("exact", "e1", "training", "t2")
    alike = row("e1", SENTENCE.replace("Monday", "Tuesday"))
    one = suite_data(train=train, evaluation=(row("e0", "Hello"), row("e2", "Bye")), leakage="drop")
    hard = replace(one, evaluation=(alike, row("e2", "Bye")), leakage="warn")
    both = replace(
        one, evaluation=(row("e1", "hello!"),), train=train[1:], overlaps=(exact,)
    )  # its id is another's too
    (found,) = swept(("file=one", one), ("file=hard", hard))["overlaps"]
    assert (found["kind"], found["row"], found["other"]) == ("near", "e1", "t1")
    every = swept(("file=one", one), ("file=hard", hard), ("file=both", both), ("rows=9", hard))
    assert [(o["kind"], o["row"]) for o in every["overlaps"]] == [("exact", "e1"), ("near", "e1")]
    assert every["rows"] == {"training": 2, "validation": 0, "articles": 0, "evaluation": 4}
    assert every["mode"] == "drop, warn"
    assert every == swept(("rows=9", hard), ("file=both", both), ("file=one", one)) | {"mode": "drop, warn"}
    small = swept(("a", replace(one, train=())), ("again", hard), ("curve=0.5", hard))
    assert (small["rows"]["training"], small["overlaps"], small["mode"]) == (0, [], "drop")


def test_of_a_rows_overlaps_of_one_kind_the_closest_is_reported() -> None:
    held, far = (row("e1", SENTENCE),), (row("t1", SENTENCE.replace("Monday has still", "Friday")),)
    close = (row("t2", SENTENCE.replace("Monday", "Friday")),)
    parts = [("rows=1", suite_data(evaluation=held, train=far)), ("rows=2", suite_data(evaluation=held, train=close))]
    for order in (parts, parts[::-1]):
        assert [o["other"] for o in swept(*order)["overlaps"]] == ["t2"]


ASKED = "Where is my parcel now?"  # five words
CANNED = "Please call us between nine and five on working days."


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (f"Examples:\n- “{ASKED.upper()}” is shipping", ["instructions.md"]),
        (f"| **{ASKED}** | shipping |", ["instructions.md"]),
        (f"So: {ASKED.replace(' now', '')} is shipping", []),
        ("Answer shipping, or {'reply': 'shipping'}, to: Other?", []),
        (f"Say: {CANNED}", []),
        (f"Say: {CANNED.replace('nine', 'eight')}", ["instructions.md"]),
        (f"Say: {CANNED.replace('nine', 'ten')}", []),
    ],
)
def test_a_row_that_stands_in_what_models_are_told_is_found(told: str, found: list[str]) -> None:
    """Neither short texts nor labels, nor a reply that is trained on too."""
    held = [row("e1", ASKED, reply="shipping"), row("e2", "Other?", reply="other"), row("e3", "When?", reply=CANNED)]
    held.append(row("e4", "And now?", reply=CANNED.replace("nine", "eight")))
    train = [row("t1", "Hello", reply=CANNED)]
    for name in ("instructions.md", "suite.system"):
        texts = {"instructions.md": "", "suite.system": "", name: told}
        overlapping = overlaps(held, train, [], "message", "reply", texts)
        assert [(o.kind, o.source, o.other) for o in overlapping] == [("exact", "instructions", name) for _ in found]
        assert near(held, train, [], "message", texts) == []


def test_a_quote_in_what_models_are_told_is_near_unless_it_is_exact() -> None:
    held, texts = [row("e", QUESTION)], {"instructions.md": AROUND.format(QUESTION.replace("our", "the"))}
    (found,) = near(held, [], [], "message", texts)
    assert (found.kind, found.source, found.other) == ("near", "instructions", "instructions.md")
    assert near(held, [], [], "message", {"instructions.md": AROUND.format(QUESTION)}) == []
