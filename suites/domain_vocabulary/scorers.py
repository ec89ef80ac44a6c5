"""Two vocabularies that a general model gets almost right: ICD-10-CM codes with their official wording, and clauses
of a contract template. A coding row wants a line a code, `CODE wording`; a clause row wants the template word for word
with its blanks filled.

The official list comes with the package `simple-icd-10-cm` (CMS and NCHS, public domain).
"""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CODE = re.compile(r"^([A-Z][0-9][0-9A-Z](?:\.[0-9A-Z]{1,4})?)\b[ \t:–-]*(.*)$")


def evaluation(**_: Any) -> dict[str, Any]:
    """The split `test`: every row of `eval.jsonl`, whatever the working directory."""
    from datasets import Dataset

    lines = (HERE / "eval.jsonl").read_text(encoding="utf-8-sig").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    fields = dict.fromkeys(field for row in rows for field in row)  # from_list takes those of the first row
    return {"test": Dataset.from_list([{**fields, **row} for row in rows])}


def coded(reply: str) -> list[tuple[str, str]]:
    """Code and wording of each line that starts with something shaped like a code, once a code."""
    found = [m.groups() for line in reply.split("\n") if (m := CODE.match(line.strip()))]
    return list({code: (code, wording.strip()) for code, wording in reversed(found)}.values())[::-1]


def exists(code: str) -> bool:
    """Whether the official list holds a code."""
    import simple_icd_10_cm

    return bool(simple_icd_10_cm.is_valid_item(code))


def coding_scores(reply: str, reference: str) -> dict[str, float]:
    """Precision, recall and F1 of the codes; `wording_exact`: each code said in its official words (none said: 0);
    `invented_codes`: the share of codes that the official list doesn't hold; `exact`: the codes wanted, no other,
    in their official words, and not a line else."""
    said, wanted = coded(reply), dict(coded(reference))
    hits = sum(code in wanted for code, _ in said)
    wording = said and all(words == wanted.get(code, official(code)) for code, words in said)
    lines = [line for line in reply.split("\n") if line.strip()]
    return {
        "exact": int(hits == len(said) == len(wanted) == len(lines) and bool(wording)),
        "code_precision": hits / len(said) if said else 0.0,
        "code_recall": hits / len(wanted),
        "code_f1": 2 * hits / (len(said) + len(wanted)),
        "wording_exact": int(bool(wording)),
        "invented_codes": sum(not exists(code) for code, _ in said) / len(said) if said else 0.0,
    }


def official(code: str) -> str | None:
    """The official wording of a code, None where there is no such code."""
    import simple_icd_10_cm

    return str(simple_icd_10_cm.get_description(code)) if exists(code) else None


def clause_scores(reply: str, row: dict[str, Any]) -> dict[str, float]:
    """`exact` and `clause_exact`: the filled clause to the letter, white space apart; `blanks_filled`: the share of
    the values that stand in the reply as wanted; `clause_similarity`: how much of the wording is there, 0 to 1
    (Ratcliff & Metzener 1988, as difflib does it, by words)."""
    from difflib import SequenceMatcher

    said, wanted = reply.split(), row["reply"].split()
    exact = int(said == wanted)
    flat, values = " ".join(said), list(row["fills"])
    filled = [re.search(rf"(?<!\w)(?<!\d[.,]){re.escape(value)}(?!\w|[.,]\d)", flat) is not None for value in values]
    return {
        "exact": exact, "clause_exact": exact, "blanks_filled": sum(filled) / len(filled),
        "clause_similarity": SequenceMatcher(None, said, wanted, autojunk=False).ratio(),
    }  # fmt: skip


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's hook. A row has the scores of its own kind, and `exact`."""
    reply = results[0].strip()
    return coding_scores(reply, doc["reply"]) if doc["kind"] == "coding" else clause_scores(reply, doc)


def check(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row of this suite."""
    if row["kind"] == "clause":
        absent = [value for value in row["fills"] if value not in row["reply"]]
        return [f"value {value!r} is not in the reply; mend one of the two" for value in absent]
    if row["kind"] != "coding":
        return [f"kind {row['kind']!r}: choose coding or clause"]
    lines = [CODE.match(line) for line in row["reply"].split("\n")]
    if not all(lines):
        return ["a line of the reply is not a code and its wording; write `I10 Essential (primary) hypertension`"]
    said = [m.groups() for m in lines if m]
    return [
        f"code {code} is not in ICD-10-CM; mend it" if not exists(code)
        else f"code {code} is worded {words!r}, officially {official(code)!r}; copy that"
        for code, words in said
        if not exists(code) or words != official(code)
    ]  # fmt: skip
