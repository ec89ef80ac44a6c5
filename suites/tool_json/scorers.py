"""What makes a tool call right: it parses, fits the tool's JSON Schema, names the right tool and holds the values.

A reply is one JSON object, `{"tool": NAME, "arguments": {...}}`, and nothing else. `tools.json` is the catalogue.
"""

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def evaluation(**_: Any) -> dict[str, Any]:
    """The split `test`: every row of `eval.jsonl`, whatever the working directory."""
    from datasets import Dataset

    lines = (HERE / "eval.jsonl").read_text(encoding="utf-8-sig").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    fields = dict.fromkeys(field for row in rows for field in row)  # from_list takes those of the first row
    return {"test": Dataset.from_list([{**fields, **row} for row in rows])}


@cache
def validators() -> dict[str, Any]:
    """A validator for the arguments of each tool of the catalogue."""
    from jsonschema import Draft202012Validator

    catalogue = json.loads((HERE / "tools.json").read_text(encoding="utf-8"))
    return {tool["name"]: Draft202012Validator(tool["parameters"]) for tool in catalogue}


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({k for k, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_constants(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def parse(reply: str) -> dict[str, Any] | None:
    """The call that a reply holds, or None: not JSON (NaN and repeated keys are none), text around it, or other keys
    than `tool` (text) and `arguments` (an object)."""
    try:
        call = json.loads(reply, object_pairs_hook=_no_repeats, parse_constant=_no_constants)
    except (ValueError, RecursionError):
        return None
    shaped = isinstance(call, dict) and set(call) == {"tool", "arguments"}
    return call if shaped and isinstance(call["tool"], str) and isinstance(call["arguments"], dict) else None


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: 2 is 2.0, but true is not 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def values(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each value of a call with the path to it; numbers alike however they are written."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from values(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from values(inner, f"{path}[{at}]")
    else:
        whole = isinstance(value, float) and value.is_integer()
        yield path, json.dumps(int(value) if whole else value)


def value_f1(call: dict[str, Any], wanted: dict[str, Any]) -> float:
    """F1 of the values at their paths, the tool's name among them: 2·shared / (found + wanted)."""
    found, right = Counter(values(call)), Counter(values(wanted))
    return 2 * sum((found & right).values()) / (sum(found.values()) + sum(right.values()))


def score(reply: str, wanted: dict[str, Any]) -> dict[str, float]:
    """All scores of one reply against the call that was wanted."""
    call = parse(reply)
    if call is None:
        names = ("exact", "parses", "schema_valid", "right_tool", "arguments_exact", "value_f1")
        return dict.fromkeys(names, 0)
    validator = validators().get(call["tool"])
    right, exact = call["tool"] == wanted["tool"], same(call["arguments"], wanted["arguments"])
    return {
        "exact": int(right and exact), "parses": 1,
        "schema_valid": int(validator is not None and validator.is_valid(call["arguments"])),
        "right_tool": int(right), "arguments_exact": int(exact), "value_f1": value_f1(call, wanted),
    }  # fmt: skip


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's hook: one reply a row, greedy."""
    return score(results[0].strip(), json.loads(doc["reply"]))


@cache
def catalogue_faults() -> tuple[str, ...]:
    """A line for each tool whose parameters are no JSON Schema."""
    from jsonschema import Draft202012Validator, SchemaError

    found = []
    for tool, validator in validators().items():
        try:
            Draft202012Validator.check_schema(validator.schema)
        except SchemaError as error:
            found.append(f"tools.json: {tool} is no JSON Schema at {error.json_path} ({error.message}); mend it")
    return tuple(found)


def check(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row of this suite, or with the catalogue."""
    if faults := catalogue_faults():
        return list(faults)
    call = parse(row["reply"])
    if call is None:
        return ['reply is no call; write {"tool": NAME, "arguments": {...}}']
    if call["tool"] not in validators():
        return [f"no tool {call['tool']!r} in tools.json; it has {', '.join(validators())}"]
    unfit = validators()[call["tool"]].iter_errors(call["arguments"])
    return [f"arguments do not fit {call['tool']} at {e.json_path}: {e.message}" for e in unfit]
