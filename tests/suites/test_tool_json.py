"""Each score of tool_json catches its own fault: every planted one is told apart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.resources import resource
from tests.suites.loading import rows, scorers

SCORERS = scorers("tool_json")
WANTED = {
    "tool": "book_hotel",
    "arguments": {
        "city": "Graz", "check_in": "2026-03-14", "nights": 2, "rooms": [{"type": "double", "guests": 2}],
        "max_price": {"value": 120.5, "currency": "EUR"}, "breakfast": True,
    },
}  # fmt: skip
ALL = {"exact": 1, "parses": 1, "schema_valid": 1, "right_tool": 1, "arguments_exact": 1, "value_f1": 1}


def changed(**arguments: Any) -> str:
    return json.dumps({**WANTED, "arguments": {**WANTED["arguments"], **arguments}})  # type: ignore[dict-item]


def without(name: str) -> str:
    kept = {k: v for k, v in WANTED["arguments"].items() if k != name}  # type: ignore[attr-defined]
    return json.dumps({**WANTED, "arguments": kept})


def failed(reply: str) -> set[str]:
    return {name for name, value in SCORERS.score(reply, WANTED).items() if value < 1}


@pytest.mark.parametrize("reply", [json.dumps(WANTED), json.dumps(WANTED, indent=2), changed(nights=2.0),
                                   json.dumps(dict(reversed(WANTED.items())))])  # fmt: skip
def test_the_same_call_in_any_writing_passes(reply: str) -> None:
    assert SCORERS.score(reply, WANTED) == ALL


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        (changed(nights=3), {"exact", "arguments_exact", "value_f1"}),
        (changed(city="graz"), {"exact", "arguments_exact", "value_f1"}),
        (without("breakfast"), {"exact", "arguments_exact", "value_f1"}),
        (without("city"), {"exact", "arguments_exact", "value_f1", "schema_valid"}),
        (changed(breakfast=1), {"exact", "arguments_exact", "value_f1", "schema_valid"}),
        (changed(breakfast="true"), {"exact", "arguments_exact", "value_f1", "schema_valid"}),
        (changed(nights="2"), {"exact", "arguments_exact", "value_f1", "schema_valid"}),
        (changed(rooms=[{"type": "king", "guests": 2}]), {"exact", "arguments_exact", "value_f1", "schema_valid"}),
        (changed(rooms=[{"type": "double", "guests": 2}] * 2), {"exact", "arguments_exact", "value_f1"}),
        (changed(stars=4), {"exact", "arguments_exact", "value_f1", "schema_valid"}),
        (json.dumps({**WANTED, "tool": "book_travel"}), {"exact", "right_tool", "value_f1", "schema_valid"}),
        (json.dumps({**WANTED, "tool": "book_flat"}), {"exact", "right_tool", "value_f1", "schema_valid"}),
    ],
)
def test_a_planted_fault_fails_its_scores_and_no_other(reply: str, scores: set[str]) -> None:
    assert failed(reply) == scores


@pytest.mark.parametrize(
    "reply",
    [
        "", "Sure: " + json.dumps(WANTED), json.dumps(WANTED) + " ok", "```json\n" + json.dumps(WANTED) + "\n```",
        json.dumps([WANTED]), json.dumps({**WANTED, "id": 1}), json.dumps({"tool": "book_hotel"}), "{" * 5000,
        json.dumps({**WANTED, "arguments": "x"}), json.dumps({**WANTED, "tool": 7}),
        '{"tool": "a", "arguments": {"x": NaN}}', '{"tool": "a", "tool": "book_hotel", "arguments": {}}',
    ],
)  # fmt: skip
def test_what_is_no_call_scores_nothing(reply: str) -> None:
    assert set(SCORERS.score(reply, WANTED).values()) == {0}


def test_value_f1_by_hand() -> None:
    # the tool and 8 values are wanted; one is another and one is missing: 2·7 / (8 + 9)
    reply = json.loads(changed(nights=3))
    del reply["arguments"]["breakfast"]
    assert SCORERS.score(json.dumps(reply), WANTED)["value_f1"] == pytest.approx(14 / 17)


def test_the_catalogue_is_wide_and_every_tool_is_asked_for() -> None:
    tools = json.loads((resource("suites") / "tool_json/tools.json").read_text(encoding="utf-8"))
    assert len(tools) >= 12
    for file in ("train", "eval"):
        assert {json.loads(r["reply"])["tool"] for r in rows("tool_json", file)} == {t["name"] for t in tools}


def test_the_instructions_name_every_argument() -> None:
    text = (resource("suites") / "tool_json/instructions.md").read_text(encoding="utf-8")
    for tool in json.loads((resource("suites") / "tool_json/tools.json").read_text(encoding="utf-8")):
        (line,) = [line for line in text.split("\n") if line.startswith(f"- {tool['name']}:")]
        for name in tool["parameters"]["properties"]:
            mark = "" if name in tool["parameters"]["required"] else "?"
            assert f"{name}{mark}: " in line


def test_a_bad_row_is_told() -> None:
    assert SCORERS.check({"reply": json.dumps(WANTED)}) == []
    assert "no tool 'book_flat'" in SCORERS.check({"reply": json.dumps({**WANTED, "tool": "book_flat"})})[0]
    assert "at $.nights" in SCORERS.check({"reply": changed(nights="2")})[0]
    assert "is no call" in SCORERS.check({"reply": "Sure"})[0]


def test_the_output_schema_is_the_catalogue_and_takes_every_reference() -> None:
    from jsonschema import Draft202012Validator

    folder = resource("suites") / "tool_json"
    schema = json.loads((folder / "output.schema.json").read_text(encoding="utf-8"))
    tools = json.loads((folder / "tools.json").read_text(encoding="utf-8"))
    assert [b["properties"]["tool"]["const"] for b in schema["anyOf"]] == [t["name"] for t in tools]
    assert [b["properties"]["arguments"] for b in schema["anyOf"]] == [t["parameters"] for t in tools]
    validator = Draft202012Validator(schema)
    assert all(validator.is_valid(json.loads(r["reply"])) for f in ("train", "eval") for r in rows("tool_json", f))
