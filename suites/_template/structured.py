"""What makes an answer of this suite right: it is the JSON wanted, however it is spaced and its keys are ordered.

`harness.suites check` runs this on the reference answers, which should reach 1 on the score that decides.
"""

import json
from collections import Counter
from collections.abc import Iterator
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


def values(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each value with the path to it, an empty object or list among them; numbers alike however they are written."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from values(inner, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for at, inner in enumerate(value):
            yield from values(inner, f"{path}[{at}]")
    else:
        whole = isinstance(value, float) and value.is_integer()
        yield path, json.dumps(int(value) if whole else value)


def value_f1(said: Any, wanted: Any) -> float:
    """F1 of the values at their paths: 2·shared / (said + wanted)."""
    found, right = Counter(values(said)), Counter(values(wanted))
    return 2 * sum((found & right).values()) / (sum(found.values()) + sum(right.values()))


def check(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row of this suite."""
    return [] if parse(row.get("reply") or "") is not None else ["reply is no JSON object or list; mend it"]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's hook: one reply a row, greedy."""
    said, wanted = parse(results[0].strip()), parse(doc["reply"])
    if said is None:
        return {"exact": 0, "value_f1": 0.0, "parses": 0}
    return {"exact": int(same(said, wanted)), "value_f1": value_f1(said, wanted), "parses": 1}
