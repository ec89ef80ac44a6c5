"""Did anything that builds see the evaluation rows? Looked for before anything is trained.

Compared are the evaluation rows with the training rows (from which validation, calibration and few-shot rows are
taken), with the knowledge base that retrieval reads, and with what models are told: instructions and system text.

- exact: the same message but for case, spaces, punctuation and typography, an article that is the message or its
  reply, or a told text in which the message (of `WORDS` or more, or as long as a quote) or a reply stands that is as
  long as a quote and no training row's;
- group: a training row of the same group (customer, document, template);
- near: messages alike in spelling: Jaccard similarity of their 5-character shingles (Broder 1997) of `NEAR` or more; or
  a training message, an article with its title or a told text that quotes the message: in a part of it twice as long as
  the message stand `QUOTED` or more of its shingles, of which it has `LONG` or more. Every pair is compared, by a
  product of sparse matrices: 10,000 rows with 10,000 take some 20 seconds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from harness.types import Article, Json, Overlap

NEAR, QUOTED = 0.6, 0.8
SHINGLE = 5
LONG = 30  # shingles: shorter messages stand in longer ones by chance
WORDS = 5  # likewise, of messages that stand in a told text to the letter
CHUNK = 200  # texts compared at a time
PAUSES = ".,;:!?¡¿«»。、"
AROUND = re.escape(PAUSES + "\"'()[]「」")
WORD = re.compile(rf"(?:\.(?=\d)|[^{AROUND}])(?:.*(?:[^{AROUND}]|(?<=\d)[\"']+))?")
TYPED = str.maketrans(
    dict.fromkeys("‘’‚‛′´ʼ", "'")
    | dict.fromkeys("“”„‟″", '"')
    | dict.fromkeys([*map(chr, range(0x2010, 0x2016)), "−"], "-")
    | dict.fromkeys("\u00ad\u061c\u200b\u200e\u200f\u2060\ufe0e\ufe0f\ufeff")
    | dict.fromkeys(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
)  # quotes, dashes, and what is not seen: soft hyphens, spaces of no width, marks of direction and of style
RAISED = ("<super>", "<sub>", "<fraction>")
MODES = ("fail", "drop", "warn")
TRAINING, KNOWLEDGE, INSTRUCTIONS = "training", "knowledge base", "instructions"


def typed(text: str) -> str:
    """A text as a typewriter has it: plain quotes and hyphens, nothing unseen, letters of one width (Unicode's NFKC,
    though 10² is not 102). Joiners of zero width stay: they tell Persian words and emoji apart."""
    if text.isascii():
        return text
    letters = text.translate(TYPED)
    plain = (
        c if unicodedata.decomposition(c).startswith(RAISED) else unicodedata.normalize("NFKC", c) for c in letters
    )
    return unicodedata.normalize("NFC", "".join(plain))


def normalised(text: str) -> str:
    """A text without case, typography, spaces and the punctuation around its words: "C++" is not "C#", 7 - 2 is not
    7 + 2, .5 is not 5, 5' is not 5", and :) is not :( though "?" may stand apart."""
    words = unicodedata.normalize("NFC", typed(text).casefold()).split()
    kept = [found[0] if (found := WORD.search(word)) else word for word in words if word.strip(PAUSES)]
    return " ".join(kept) or " ".join(words)


def article_texts(article: Article) -> set[str]:
    """What an article says, without and with its title: an evaluation row that is one of them is given away by it."""
    return {normalised(article.text), normalised(f"{article.title} {article.text}")}


def overlaps(
    held: Sequence[Mapping[str, Json]], train: Sequence[Mapping[str, Json]], articles: Sequence[Article],
    message: str, reply: str, told: Mapping[str, str] | None = None,
) -> list[Overlap]:  # fmt: skip
    """Exact and grouped overlaps, at most one for an evaluation row and a source. `told` are the texts that models are
    told, by what they are called."""
    said = {normalised(r[message]): r["id"] for r in reversed(train)}
    groups = {r["group"]: r["id"] for r in reversed(train) if r.get("group")}
    known = {text: a.id for a in articles for text in article_texts(a)}
    answered = {normalised(str(r.get(reply))) for r in train}
    texts = {name: normalised(text) for name, text in (told or {}).items()}
    found = []
    for row in held:
        if (other := said.get(normalised(row[message]))) is not None:
            found.append(Overlap("exact", row["id"], TRAINING, other))
        elif (other := groups.get(row.get("group"))) is not None:
            found.append(Overlap("group", row["id"], TRAINING, other))
        own = [normalised(str(row[key])) for key in (message, reply) if row.get(key)]
        if (other := next((known[t] for t in own if t in known), None)) is not None:
            found.append(Overlap("exact", row["id"], KNOWLEDGE, other))
        given = [t for t in own[:1] if _long(t) or len(t.split()) >= WORDS]
        given += [t for t in own[1:] if _long(t) and t not in answered]
        if (other := next((name for name, text in texts.items() if any(t in text for t in given)), None)) is not None:
            found.append(Overlap("exact", row["id"], INSTRUCTIONS, other))
    return found


def _long(text: str) -> bool:
    return len(text) >= LONG + SHINGLE - 1


def _shingles(letters: str) -> set[str]:
    return {letters[i : i + SHINGLE] for i in range(max(1, len(letters) - SHINGLE + 1))}


def _together(wanted: set[str], length: int, letters: str) -> float:
    """The greatest share of a message's shingles that stands in a part of a text twice as long as the message."""
    parts = (letters[i : i + 2 * length] for i in range(0, len(letters), length))
    return max(len(wanted & _shingles(part)) for part in parts) / len(wanted)


def near(
    held: Sequence[Mapping[str, Json]], train: Sequence[Mapping[str, Json]], articles: Sequence[Article],
    message: str, told: Mapping[str, str] | None = None,
) -> list[Overlap]:  # fmt: skip
    """Near overlaps that are not exact ones, the most alike first, at most one for an evaluation row and a source.
    `similarity` is the Jaccard similarity, or where that is below `NEAR` the share of the message that is quoted."""
    import numpy as np
    from scipy.sparse import csr_array

    said = [normalised(str(r[message])) for r in held]
    wanted = [_shingles(text) for text in said]
    column = {shingle: n for n, shingle in enumerate(set(chain(*wanted)))}

    def matrix(sets: Iterable[set[str]]) -> Any:
        """A row a set, a column a shingle of the evaluation rows: 1 where the one holds the other."""
        kept = [[column[shingle] for shingle in each if shingle in column] for each in sets]
        ends = np.cumsum([0, *map(len, kept)])
        values = np.ones(ends[-1], np.int32), np.fromiter(chain(*kept), np.int32), ends
        return csr_array(values, shape=(len(kept), len(column)))

    own, sizes = matrix(wanted).T.tocsr(), np.array([len(each) for each in wanted])
    sources = (
        (TRAINING, [r["id"] for r in train], [str(r[message]) for r in train]),
        (KNOWLEDGE, [a.id for a in articles], [f"{a.title} {a.text}" for a in articles]),
        (INSTRUCTIONS, [*(told or {})], [*(told or {}).values()]),
    )
    best: dict[tuple[int, str], tuple[float, str]] = {}
    for source, ids, texts in sources:
        for start in range(0, len(texts), CHUNK):
            letters = [normalised(text) for text in texts[start : start + CHUNK]]
            pieces = [_shingles(text) for text in letters]
            shared = (matrix(pieces) @ own).tocoo()
            hits = shared.data >= NEAR * sizes[shared.col]
            for at, row, count in zip(*(v[hits].tolist() for v in (shared.row, shared.col, shared.data)), strict=True):
                size = len(wanted[row])
                alike = count / (len(pieces[at]) + size - count)
                if alike < NEAR and size >= LONG and count >= QUOTED * size:
                    alike = _together(wanted[row], len(said[row]), letters[at])
                    alike = alike if alike >= QUOTED else 0.0
                if source == KNOWLEDGE:
                    exact = said[row] in article_texts(articles[start + at])
                else:
                    exact = said[row] in letters[at] if source == INSTRUCTIONS else said[row] == letters[at]
                if alike >= NEAR and alike > best.get((row, source), (0.0, ""))[0] and not exact:
                    best[row, source] = (alike, ids[start + at])
    found = [Overlap("near", held[row]["id"], s, other, round(a, 3)) for (row, s), (a, other) in best.items()]
    return sorted(found, key=lambda o: (-o.similarity, str(o.row), o.source))
