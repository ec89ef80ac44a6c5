"""Turns a message into the chat messages that this model was evaluated with: system text, worked examples, and the
articles that answer the message. Needs nothing but this folder, and bm25s where articles are searched by words."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
RRF_K = 60  # reciprocal rank fusion, Cormack et al., SIGIR 2009


@cache
def recipe() -> dict:
    """What stands in `prompt.json`."""
    return json.loads((HERE / "prompt.json").read_text(encoding="utf-8"))


@cache
def _bm25():
    import bm25s

    return bm25s.BM25.load(str(HERE / "retrieval/bm25"), show_progress=False)


@cache
def _dense():
    import numpy as np
    from sentence_transformers import SentenceTransformer

    folder = HERE / "retrieval/dense"
    return SentenceTransformer(str(folder / "encoder")), np.load(folder / "vectors.npy")


def _by_words(message: str, k: int) -> list[int]:
    import bm25s

    query = bm25s.tokenize([message], stopwords="en", show_progress=False)
    found, scores = _bm25().retrieve(query, k=min(k, len(recipe()["articles"])), show_progress=False)
    return [int(i) for i in found[0][scores[0] > 0]]  # those that share a word with the message


def _by_meaning(message: str, k: int) -> list[int]:
    encoder, vectors = _dense()
    query = encoder.encode([message], normalize_embeddings=True, show_progress_bar=False)[0]
    return [int(i) for i in (-(vectors @ query)).argsort()[:k]]


def articles(message: str) -> list[dict]:
    """The articles that are put before a message, best first."""
    every, method, k = recipe()["articles"], recipe()["method"], recipe()["top_k"]
    if not every or method == "none":
        return []
    if method != "hybrid":
        return [every[i] for i in {"bm25": _by_words, "dense": _by_meaning}[method](message, k)]
    points: dict[int, float] = {}
    for ranking in (_by_words(message, len(every)), _by_meaning(message, len(every))):
        for rank, i in enumerate(ranking):
            points[i] = points.get(i, 0.0) + 1 / (RRF_K + rank + 1)
    return [every[i] for i in sorted(points, key=lambda i: (-points[i], every[i]["id"]))[:k]]


def messages(message: str) -> list[dict[str, str]]:
    """Chat messages for one message, as an OpenAI-compatible server or a chat template takes them."""
    chat = [{"role": "system", "content": recipe()["system"]}]
    for asked, answered in recipe()["examples"]:
        chat += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    if found := articles(message):
        facts = "\n".join(f"{a['title']}: {a['text']}" for a in found)
        message = f"Facts:\n{facts}\n\n{recipe()['asked']}:\n{message}"
    return [*chat, {"role": "user", "content": message}]


def render(tokenizer, message: str) -> str:
    """The text that the model reads, special tokens included, as `chat_template.jinja` writes it."""
    return tokenizer.apply_chat_template(messages(message), tokenize=False, add_generation_prompt=True)
