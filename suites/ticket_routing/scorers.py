"""Where a ticket went against where it belongs: accuracy, recall of each department, macro-F1, and answers that name
no department, which count as a class of their own."""

import json
from pathlib import Path
from typing import Any

DEPARTMENTS = (
    "how_to", "billing", "bug_report", "account_access", "integrations", "data_import", "feature_request", "sales",
    "payroll_tax", "cancellation", "security_privacy", "outage",
)  # fmt: skip
UNPARSEABLE = "unparseable"


def evaluation(**_: Any) -> dict[str, Any]:
    """The split `test`: every row of `eval.jsonl`, whatever the working directory."""
    from datasets import Dataset

    lines = (Path(__file__).parent / "eval.jsonl").read_text(encoding="utf-8-sig").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    fields = dict.fromkeys(field for row in rows for field in row)  # from_list takes those of the first row
    return {"test": Dataset.from_list([{**fields, **row} for row in rows])}


def predicted(reply: str) -> str:
    """The department that a reply names: the name alone on its first line, in any case, quotes, code marks, a full
    stop and the word "Department:" forgiven. Anything else is `unparseable`."""
    first = reply.strip().split("\n", 1)[0].strip().lower().removeprefix("department:")
    name = first.strip(" \t\"'`*.").replace(" ", "_").replace("-", "_")
    return name if name in DEPARTMENTS else UNPARSEABLE


def macro_f1(pairs: list[Any]) -> float:
    """The mean over departments that occur of F1 = 2·TP / (2·TP + FP + FN) (van Rijsbergen 1979); `pairs` holds
    [true, predicted] a row. An unparseable answer is a miss of its department and a hit of none."""
    names = {true for true, _ in pairs}
    total = 0.0
    for name in names:
        hits = sum(true == guess == name for true, guess in pairs)
        total += 2 * hits / (sum(true == name for true, _ in pairs) + sum(guess == name for _, guess in pairs))
    return total / len(names)


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lm-eval's hook. A row has the recall of its own department alone, so its mean is that department's recall."""
    guess, true = predicted(results[0]), doc["reply"]
    right = int(guess == true)
    return {
        "accuracy": right, "parseable": int(guess != UNPARSEABLE), "macro_f1": [true, guess], f"recall_{true}": right,
    }  # fmt: skip


def check(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row of this suite."""
    known = row["reply"] in DEPARTMENTS
    return [] if known else [f"no department {row['reply']!r}; choose one of {', '.join(DEPARTMENTS)}"]
