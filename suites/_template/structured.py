"""What makes an answer of this suite right: it is the JSON wanted, however it is spaced and its keys are ordered.

`harness.suites check` runs this on the reference answers, which should reach 1 on the score that decides.
"""

import json
from pathlib import Path
from typing import Any


def evaluation(**_: Any) -> dict[str, Any]:
    """The split `test`: every row of `eval.jsonl`, whatever the working directory."""
    from datasets import Dataset

    lines = (Path(__file__).parent / "eval.jsonl").read_text(encoding="utf-8-sig").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    fields = dict.fromkeys(field for row in rows for field in row)  # from_list takes those of the first row
    return {"test": Dataset.from_list([{**fields, **row} for row in rows])}


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({k for k, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_constants(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def parse(reply: str) -> dict[str, Any] | list[Any] | None:
    """The object or list that a reply is; None for anything else (NaN and repeated keys are no JSON), or text around
    it."""
    try:
        found = json.loads(reply, object_pairs_hook=_no_repeats, parse_constant=_no_constants)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: 2 is 2.0, but true is not 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def size(value: Any) -> int:
    """How many values stand in one, an empty object or list among them."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return sum(map(size, inner)) or 1


def shared(a: Any, b: Any) -> int:
    """How many values two have in common: of objects at the same key, of lists between the items that have most in
    common, whatever their order."""
    if isinstance(a, dict) and isinstance(b, dict) and a and b:
        return sum(shared(a[k], b[k]) for k in a.keys() & b.keys())
    if not (isinstance(a, list) and isinstance(b, list) and a and b):
        return int(same(a, b))
    pairs = [(shared(x, y), i, j) for i, x in enumerate(a) for j, y in enumerate(b)]
    left, right, total = set(range(len(a))), set(range(len(b))), 0
    for n, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
            total += n
    return total


def value_f1(said: Any, wanted: Any) -> float:
    """F1 of the values: 2·shared / (said + wanted)."""
    return 2 * shared(said, wanted) / (size(said) + size(wanted))


def rights(row: dict[str, Any]) -> list[str]:
    """The right replies to a row."""
    return row.get("references") or [row.get("reply") or ""]


def check(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row of this suite."""
    return [] if None not in map(parse, rights(row)) else ["reply is no JSON object or list; mend it"]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's hook: one reply a row, greedy; where a row has several references, by the one that it meets best."""
    said, wanted = parse(results[0].strip()), [parse(right) for right in rights(doc)]
    if said is None:
        return {"exact": 0, "value_f1": 0.0, "parses": 0}
    return {
        "exact": int(any(same(said, right) for right in wanted)),
        "value_f1": max(value_f1(said, right) for right in wanted),
        "parses": 1,
    }
