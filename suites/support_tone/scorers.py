"""What makes a Fernhill reply right: one checker a rule of the style guide, and the facts.

The task file names `process_results`, which lm-eval calls with the row and the model's replies; every
score is 0 or 1 a row, so cells can be paired row by row. All checks are plain text matching: strict,
cheap, and the same on every machine.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

SIGN_OFF = "Warm regards,\nThe Fernhill Care Team"
ACKNOWLEDGEMENTS = ("Thank you for ", "I am sorry ", "I understand ", "I can see ")
BLAME = (
    r"you should have", r"you forgot", r"you failed", r"you did not", r"you didn['’]t", r"your fault",
    r"your mistake", r"as i said", r"as stated",
)  # fmt: skip
FORBIDDEN = (
    r"unfortunately", r"polic(?:y|ies)", r"obviously", r"simply", r"asap", r"as per", r"valued customer",
    r"no problem", r"to be honest", r"hopefully",
)  # fmt: skip
ONES = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER_WORDS = (
    {one: n for n, one in enumerate(ONES, start=1)}
    | {ten: 10 * n for n, ten in enumerate(TENS, start=2)}
    | {f"{ten}-{one}": 10 * n + m for n, ten in enumerate(TENS, start=2) for m, one in enumerate(ONES[:9], start=1)}
)
NUMBER_WORD = "|".join(word.replace("-", "[ -]") for word in sorted(NUMBER_WORDS, key=len, reverse=True))
UNIT = r"(?:business |working )?(?:day|hour|minute|week|month|year)s?"
WEEKDAY = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
TIME_FRAME = re.compile(
    rf"\b(?:\d+|{NUMBER_WORD}|an?|the next|the same|this|each|every|next|within the)[ -]{UNIT}\b"
    rf"|\b(?:by|before) (?:the )?end of (?:the )?{UNIT}\b|\b(?:by|on|before|this|next) {WEEKDAY}\b"
    r"|\bthis (?:morning|afternoon|evening)\b|\b(?:today|tomorrow|tonight|right away|at once|immediately)\b",
    re.IGNORECASE,
)
SPELLED = re.compile(rf"\b(?:{NUMBER_WORD})\b", re.IGNORECASE)
COUNTED_WORD = re.compile(rf"\b(?:{NUMBER_WORD})(?=[ -](?:{UNIT}|photos?|percent)\b)", re.IGNORECASE)
FIGURE = re.compile(r"(?<![\w.])\$?\d[\d,]*(?:\.\d+)?(?!\w|[.,]\d)|(?<![\w.])\$?\d[\d,]*(?:\.\d+)?(?=%|am\b|pm\b)")
MARKER = re.compile(r"^[ \t]*(\d{1,2})[.)](?=[ \t]+\S)", re.MULTILINE)
TYPOGRAPHY = str.maketrans(
    {"\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{EN DASH}": "-", "\N{HYPHEN}": "-", "\N{NON-BREAKING HYPHEN}": "-"}
)

RULES = ("greeting", "acknowledgement", "no_blame", "next_step", "sign_off", "length", "wording")


def greeting(reply: str, row: dict[str, Any]) -> bool:
    """The first line is exactly `Hello NAME,`, or `Hello there,` where no name was given."""
    return reply.split("\n", 1)[0].strip() == f"Hello {row.get('name') or 'there'},"


def acknowledgement(reply: str, row: dict[str, Any]) -> bool:
    """The first sentence after the greeting opens with one of the four agreed phrases."""
    _, _, body = reply.strip().partition("\n")
    return body.strip().startswith(ACKNOWLEDGEMENTS)


def no_blame(reply: str, row: dict[str, Any]) -> bool:
    """No phrase that points at the customer."""
    return not any(re.search(rf"\b{phrase}\b", reply, re.IGNORECASE) for phrase in BLAME)


def next_step(reply: str, row: dict[str, Any]) -> bool:
    """Exactly one paragraph starts with `Next step:` and it names a time frame."""
    steps = [p for p in re.split(r"\n\s*\n", reply) if p.strip().startswith("Next step:")]
    return len(steps) == 1 and bool(TIME_FRAME.search(steps[0]))


def sign_off(reply: str, row: dict[str, Any]) -> bool:
    """The reply ends with the two agreed lines and nothing after them."""
    lines = [line.strip() for line in reply.strip().split("\n")]
    return "\n".join(lines[-2:]) == SIGN_OFF


def length(reply: str, row: dict[str, Any]) -> bool:
    """50 to 110 words, split at white space."""
    return 50 <= len(reply.split()) <= 110


def wording(reply: str, row: dict[str, Any]) -> bool:
    """None of the words that the guide rules out, and no exclamation mark."""
    return "!" not in reply and not any(re.search(rf"\b{word}\b", reply, re.IGNORECASE) for word in FORBIDDEN)


def _values(words: re.Pattern[str], text: str) -> set[float]:
    return {float(NUMBER_WORDS[m.group().lower().replace(" ", "-")]) for m in words.finditer(text)}


def figures(text: str) -> set[float]:
    """Every number written in a text, as digits or (before a unit of time, "photos" or "percent") as a word.
    Digits glued to other letters than `am` and `pm` ("E2B", "the 18th") are names and dates, not figures."""
    found = {float(m.group().strip("$").replace(",", "")) for m in FIGURE.finditer(text)}
    return found | _values(COUNTED_WORD, text)


def unnumbered(text: str) -> str:
    """A text without the numbers of its lists: those of lines that begin with 1., 2. and so on, or 1), 2), in turn."""
    last = 0

    def bare(found: re.Match[str]) -> str:
        nonlocal last
        if int(found[1]) not in (1, last + 1):
            return found[0]
        last = int(found[1])
        return ""

    return MARKER.sub(bare, text)


@cache
def knowledge() -> dict[str, str]:
    """Article id to text, from the knowledge base beside this file."""
    lines = (Path(__file__).parent / "kb.jsonl").read_text(encoding="utf-8-sig").split("\n")
    return {a["id"]: a["text"] for a in map(json.loads, filter(str.strip, lines))}


def plain(text: str) -> str:
    """A text in lower case, single-spaced, with typewriter apostrophes and hyphens."""
    return " ".join(text.lower().translate(TYPOGRAPHY).split())


def says(text: str, wording: str) -> bool:
    """Whether a plain text holds a wording, and not just inside a longer number ("2 days" in "12 days") or within a
    word begun before it ("low" in "follow"; though "cannot" says "not"). To feel free is not to be free."""
    wanted, before = plain(wording), ""
    if wanted[0].isdigit():
        before = r"(?<!\d)(?<!\d[.,])"
    elif wanted[0].isalpha() and not wanted.startswith("n't"):
        before = r"(?:(?<![a-z])|(?<=\bcan)(?=not\b))"
    if SPELLED.match(wanted):
        before += "".join(f"(?<!{ten}[ -])" for ten in TENS)
    if wanted == "free":
        before += "(?<!feel )"
    after = r"(?!\d|[.,]\d)" if wanted[-1].isdigit() else ""
    return re.search(before + re.escape(wanted) + after, text) is not None


def facts(reply: str, row: dict[str, Any]) -> bool:
    """The reply agrees with the knowledge base: each needed fact is there (in one of its wordings), nothing
    to avoid is said, and no figure but the numbers of a list appears that neither the row's articles and wordings
    nor the message contain."""
    text = plain(reply)
    if not all(any(says(text, w) for w in wordings) for wordings in row["facts"]):
        return False
    if any(says(text, w) for w in row.get("avoid") or ()):
        return False
    grounded = figures(row["message"]) | _values(SPELLED, row["message"]) | {1.0}
    for known in (*(knowledge()[a] for a in row["articles"]), *(w for wordings in row["facts"] for w in wordings)):
        grounded |= figures(known)
    return figures(unnumbered(reply)) <= grounded


def score(reply: str, row: dict[str, Any]) -> dict[str, int]:
    """All scores of one reply: each rule, `style` (all rules together), `facts`, and `good` (both)."""
    scores = {rule: int(globals()[rule](reply, row)) for rule in RULES}
    scores["style"] = int(all(scores.values()))
    scores["facts"] = int(facts(reply, row))
    scores["good"] = int(scores["style"] and scores["facts"])
    return scores


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, int]:
    """lm-eval's hook: one reply a row, greedy."""
    return score(results[0].strip(), doc)
