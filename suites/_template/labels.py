"""What makes an answer of this suite right: it is the label wanted. The labels stand in `labels.json`.

`harness.suites check` runs this on the reference answers, which should reach 1 on the score that decides.
"""

import json
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

UNPARSEABLE = "unparseable"
HERE = Path(__file__).parent
AROUND = " \t`*.,;:!?…¡¿\"'“”„‘’«»()[]。、，；：！？（）「」『』《》"


def evaluation(**_: Any) -> dict[str, Any]:
    """The split `test`: every row of `eval.jsonl`, whatever the working directory."""
    from datasets import Dataset

    lines = (HERE / "eval.jsonl").read_text(encoding="utf-8-sig").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    fields = dict.fromkeys(field for row in rows for field in row)  # from_list takes those of the first row
    return {"test": Dataset.from_list([{**fields, **row} for row in rows])}


def bare(text: str) -> str:
    """The first line of a text without case, what is not seen, and the spaces and punctuation around it."""
    first = unicodedata.normalize("NFC", text.strip().split("\n", 1)[0])
    return "".join(c for c in first if unicodedata.category(c) != "Cf").strip(AROUND).lower()


@cache
def labels() -> tuple[set[str], dict[str, str]]:
    """All labels, and by its bare form each that shares it with none."""
    every = set(json.loads((HERE / "labels.json").read_text(encoding="utf-8-sig")))
    sharing = Counter(map(bare, every))
    return every, {bare(name): name for name in every if bare(name) and sharing[bare(name)] == 1}


def predicted(reply: str, otherwise: str = UNPARSEABLE) -> str:
    """The label that a reply or its first line is, case and punctuation around it forgiven where that leaves one label;
    else `otherwise`."""
    every, forgiven = labels()
    said = reply.strip()
    exact = next((text for text in (said, said.split("\n", 1)[0].strip()) if text in every), None)
    return exact or forgiven.get(bare(said), otherwise)


def macro_f1(pairs: list[Any]) -> float:
    """The mean over labels that occur of F1 = 2·TP / (2·TP + FP + FN); `pairs` holds [true, predicted] a row."""
    names = {true for true, _ in pairs}
    total = 0.0
    for name in names:
        hits = sum(true == guess == name for true, guess in pairs)
        total += 2 * hits / (sum(true == name for true, _ in pairs) + sum(guess == name for _, guess in pairs))
    return total / len(names)


def check(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row of this suite."""
    if not row.get("reply"):
        return ["has no reply, and so no label; fill it in"]
    known = predicted(row["reply"]) != UNPARSEABLE
    return [] if known else [f"label {row['reply']!r} is none of labels.json; mend it, or add it there and train on it"]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lm-eval's hook: one reply a row, greedy."""
    guess, true = predicted(results[0]), predicted(doc["reply"], doc["reply"])
    return {"accuracy": int(guess == true), "parseable": int(guess != UNPARSEABLE), "macro_f1": [true, guess]}
