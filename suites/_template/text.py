"""What makes an answer of this suite right. Change it to what counts for you: each score is 0 to 1 a row.

`harness.suites check` runs this on the reference answers, which should reach 1 on the score that decides.
"""

import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

AROUND = re.escape(".,;:!?…¡¿\"'“”„‘«»()[]。、，；：！？（）「」『』《》")
FIRST = rf"(?:\.(?=\w)|[^{AROUND}])"  # ".5" is not "5"
CLOSED = rf"(?:\([^()]*\)|\[[^\[\]]*\])(?=[{AROUND}]*$)"  # "f(x)" is not "f(x"
UNSPACED = re.compile(  # Thai and Lao, Myanmar, Khmer, Kana, Han: written without spaces between words
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff])"
)
WORD = re.compile(rf"(?<![\"']){FIRST}.*(?<=\d)[\"']+|{FIRST}(?:.*{CLOSED}|.*[^{AROUND}])?")  # 5" is not 5'


def evaluation(**_: Any) -> dict[str, Any]:
    """The split `test`: every row of `eval.jsonl`, whatever the working directory."""
    from datasets import Dataset

    lines = (Path(__file__).parent / "eval.jsonl").read_text(encoding="utf-8-sig").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    fields = dict.fromkeys(field for row in rows for field in row)  # from_list takes those of the first row
    return {"test": Dataset.from_list([{**fields, **row} for row in rows])}


def words(text: str) -> list[str]:
    """The words of a text without case and the punctuation around them; of punctuation alone, what stands there. Where
    no spaces part words, each character is one (as MLQA counts: Lewis et al., 2020)."""
    said = UNSPACED.sub(r" \1 ", unicodedata.normalize("NFC", text.casefold())).replace("’", "'").split()
    return [found[0] for word in said if (found := WORD.search(word))] or said


def word_f1(said: str, wanted: str) -> float:
    """2·shared / (said + wanted) words (Rajpurkar et al., SQuAD, 2016)."""
    a, b = Counter(words(said)), Counter(words(wanted))
    both = sum(a.values()) + sum(b.values())
    return 2 * sum((a & b).values()) / both if both else 1.0


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's hook: one reply a row, greedy; where a row has several references, by the one that it meets best."""
    said = results[0].strip()
    found = [
        {"exact": int(words(said) == words(wanted)), "word_f1": word_f1(said, wanted)}
        for wanted in doc.get("references") or [doc["reply"]]
    ]
    return {name: max(scores[name] for scores in found) for name in found[0]}
