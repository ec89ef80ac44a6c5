"""Did anything that builds see the evaluation rows? Looked for before anything is trained.

Compared are the evaluation rows with the training rows (from which validation, calibration and few-shot rows are
taken) and with the knowledge base that retrieval reads.

- exact: the same message but for case, spaces and punctuation, or an article that is the message or its reply;
- group: a training row of the same group (customer, document, template);
- near: messages alike in spelling: Jaccard similarity of their 5-character shingles of `NEAR` or more. Candidates come
  from MinHash with locality-sensitive hashing (Broder 1997; datasketch), each is then computed exactly, so that what is
  listed is true; of pairs at the threshold, 1 in 80 may be missed, of pairs at 0.7, 1 in 5,000.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.types import Article, Json, Overlap

NEAR = 0.6
SHINGLE = 5
PERMUTATIONS, BANDS = 128, 32
CHUNK = 5_000
PAUSES = ".,;:!?…¡¿«»。、，；：！？"
AROUND = re.escape(PAUSES + "\"'“”‘’()[]（）「」")
WORD = re.compile(rf"(?:\.(?=\d)|[^{AROUND}])(?:.*(?:[^{AROUND}]|(?<=\d)[\"']+))?")
MODES = ("fail", "drop", "warn")
TRAINING, KNOWLEDGE = "training", "knowledge base"


def normalised(text: str) -> str:
    """A text without case, spaces and the punctuation around its words: "C++" is not "C#", 7 - 2 is not 7 + 2, .5 is
    not 5, 5' is not 5", and :) is not :( though "?" may stand apart."""
    words = unicodedata.normalize("NFC", text.casefold()).split()
    kept = [found[0] if (found := WORD.search(word)) else word for word in words if word.strip(PAUSES)]
    return " ".join(kept) or " ".join(words)


def article_texts(article: Article) -> set[str]:
    """What an article says, without and with its title: an evaluation row that is one of them is given away by it."""
    return {normalised(article.text), normalised(f"{article.title} {article.text}")}


def overlaps(
    held: Sequence[Mapping[str, Json]], train: Sequence[Mapping[str, Json]], articles: Sequence[Article],
    message: str, reply: str,
) -> list[Overlap]:  # fmt: skip
    """Exact and grouped overlaps, at most one for an evaluation row and a source."""
    said = {normalised(r[message]): r["id"] for r in reversed(train)}
    groups = {r["group"]: r["id"] for r in reversed(train) if r.get("group")}
    known = {text: a.id for a in articles for text in article_texts(a)}
    found = []
    for row in held:
        if (other := said.get(normalised(row[message]))) is not None:
            found.append(Overlap("exact", row["id"], TRAINING, other))
        elif (other := groups.get(row.get("group"))) is not None:
            found.append(Overlap("group", row["id"], TRAINING, other))
        own = [normalised(str(row[key])) for key in (message, reply) if row.get(key)]
        if (other := next((known[t] for t in own if t in known), None)) is not None:
            found.append(Overlap("exact", row["id"], KNOWLEDGE, other))
    return found


def _shingles(text: str) -> set[bytes]:
    letters = normalised(text)
    return {letters[i : i + SHINGLE].encode() for i in range(max(1, len(letters) - SHINGLE + 1))}


def _hashed(texts: Iterable[str]) -> Iterator[tuple[int, set[bytes], Any]]:
    """Number, shingles and MinHash of each text, some thousand at a time so that memory does not grow."""
    from datasketch import MinHash

    chunk: list[set[bytes]] = []
    number = 0

    def done() -> Iterator[tuple[int, set[bytes], Any]]:
        made = MinHash.generator(chunk, num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
        for at, sketch in enumerate(made):
            yield number + at, chunk[at], sketch

    for text in texts:
        chunk.append(_shingles(text))
        if len(chunk) == CHUNK:
            yield from done()
            number, chunk = number + len(chunk), []
    yield from done()


def near(
    held: Sequence[Mapping[str, Json]], train: Sequence[Mapping[str, Json]], articles: Sequence[Article], message: str
) -> list[Overlap]:
    """Near overlaps that are not exact ones, the most alike first, at most one for an evaluation row and a source."""
    from datasketch import MinHashLSH

    index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, PERMUTATIONS // BANDS))
    wanted: list[set[bytes]] = []
    for at, shingles, sketch in _hashed(str(r[message]) for r in held):
        index.insert(at, sketch, check_duplication=False)
        wanted.append(shingles)
    said = [normalised(str(r[message])) for r in held]
    best: dict[tuple[int, str], tuple[float, str]] = {}
    sources = (
        (TRAINING, [r["id"] for r in train], [str(r[message]) for r in train]),
        (KNOWLEDGE, [a.id for a in articles], [a.text for a in articles]),
    )
    for source, ids, texts in sources:
        for at, shingles, sketch in _hashed(texts):
            for row in index.query(sketch):
                alike = len(shingles & wanted[row]) / len(shingles | wanted[row])
                known = alike <= best.get((row, source), (0.0, ""))[0]
                if alike >= NEAR and not known and normalised(texts[at]) != said[row]:
                    best[row, source] = (alike, ids[at])
    found = [Overlap("near", held[row]["id"], s, other, round(a, 3)) for (row, s), (a, other) in best.items()]
    return sorted(found, key=lambda o: (-o.similarity, str(o.row), o.source))
