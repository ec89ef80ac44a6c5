"""The leakage guard finds what was planted, tells near from exact, and stays quick on many rows."""

from __future__ import annotations

import random
from typing import Any

import pytest

from harness.leakage import near, overlaps
from harness.types import Article

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
        ("What is 10²?", "What is 102?"),
    ],
)  # fmt: skip
def test_marks_that_mean_something_tell_messages_apart(one: str, other: str) -> None:
    assert overlaps([row("e", one)], [row("t", other)], [], "message", "reply") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is it ?", "where is it"), ("« Oui »", '"oui"'), ("(.5), then", ".5 then!"), ("¿Qué?", "que\u0301"),
        ("退款？", "「退款」。"), ("'hello'", "“Hello”"), ("?!", "?!"), ("STRASSE", "straße"),
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

    train = [row(f"t{i}", message()) for i in range(6_000)]  # more than one chunk
    held = [row(f"e{i}", message()) for i in range(300)]
    for i in range(0, 300, 3):
        copied = train[i * 19]["message"].split()
        copied[rng.randrange(len(copied))] = "planted"
        held[i]["message"] = " ".join(copied)
    found = {(o.row, o.other) for o in near(held, train, [], "message")}
    planted = {(f"e{i}", f"t{i * 19}") for i in range(0, 300, 3)}
    assert found <= planted
    assert len(found) >= 97  # the shortest rows lose a third of their pieces with a word
