"""Turns a message into the chat messages that this model was evaluated with: system text, worked examples, and the
articles that answer the message. Needs nothing but this folder, and bm25s where articles are searched by words."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
RRF_K = 60  # reciprocal rank fusion, Cormack et al., SIGIR 2009
REPLY = "This is the reply."  # what the template writes before it stands in the prompt
# Some chat templates write today's date. Prompts were scored on this one, 26 July 2024, whatever the day; put before a
# template, this macro takes the place of its clock.
TODAY = {
    "Y": "2024", "y": "24", "m": "07", "-m": "7", "B": "July", "b": "Jul", "d": "26", "-d": "26", "j": "208",
    "A": "Friday", "a": "Fri", "H": "12", "I": "12", "p": "PM", "M": "00", "S": "00",
}  # fmt: skip
CLOCK = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f"|replace('%{code}', '{value}')" for code, value in TODAY.items())
    + " }}{%- endmacro %}\n"
)


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
    found, _ = _bm25().retrieve(query, k=min(k, len(recipe()["articles"])), show_progress=False)
    return [int(i) for i in found[0]]


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
    """The text that the model reads, special tokens included."""
    chat = messages(message)
    if tokenizer.chat_template is None:
        first = tokenizer("").input_ids[:1]
        start = tokenizer.bos_token if first and first[0] == tokenizer.bos_token_id else ""
        return start + "\n\n".join(m["content"] for m in chat) + "\n\n"
    prompt = _templated(tokenizer, chat, add_generation_prompt=True)
    whole = _templated(tokenizer, [*chat, {"role": "assistant", "content": REPLY}])
    opening = whole[len(prompt) :].partition(REPLY)[0] if whole.startswith(prompt) else ""
    return prompt + (opening.rstrip(" ") if opening.strip() else "")


def _templated(tokenizer, chat: list[dict[str, str]], **options) -> str:
    """Chat messages in the tokenizer's own template. Where that refuses a system turn or passes over it, what it would
    say stands before the first message."""
    from jinja2 import TemplateError

    options = {"tokenize": False, "enable_thinking": False, **options}
    if "strftime_now" in str(tokenizer.chat_template):
        options["chat_template"] = CLOCK + tokenizer.get_chat_template()

    def written(*chat) -> str:
        return tokenizer.apply_chat_template(list(chat), **options)

    system, first, *others = chat
    try:
        text = written(*chat)
        if system["content"].strip() in text or text != written({**system, "content": "-"}, first, *others):
            return text
    except TemplateError:
        pass
    return written({**first, "content": f"{system['content']}\n\n{first['content']}"}, *others)
