"""Is a compressed model still its parent? Perplexity and next-token agreement on a few held-out replies.

A classification head answers with one token of its own small vocabulary, the class, on a few more rows.

A quantizer can save garbage without an error, so no number of a cell is believed before this. The parent's
answers are taken once, when it is built, and stand beside its weights in `reference.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.directory import classes_of
from harness.errors import BrokenArtifact, UserError
from harness.lengths import demand_context
from harness.prompt import IGNORED, encode, encode_class, short_chat
from harness.store import write_json
from harness.types import Measurement, SuiteData

REFERENCE = "reference.json"
ROWS = 4
CLASSIFIED_ROWS = 32
MAX_PERPLEXITY_RATIO = 3.0
MIN_AGREEMENT = 0.4


def _answers(model: Any, rows: Sequence[dict[str, list[int]]]) -> tuple[float, list[list[int]]]:
    """Mean negative log likelihood of the replies' tokens, and the most likely token at each of them."""
    import torch
    from torch.nn.functional import cross_entropy

    total, count, best = 0.0, 0, []
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row["input_ids"]], device=model.device)
            labels = torch.tensor(row["labels"], device=model.device)[1:]
            kept = labels != IGNORED
            logits = model(input_ids=ids, use_cache=False).logits[0].float()
            logits = logits[:-1][kept] if logits.ndim == 2 else logits[None]  # a head has looked past the padding token
            total += cross_entropy(logits, labels[kept], reduction="sum").item()
            count += int(kept.sum())
            best.append(logits.argmax(dim=-1).tolist())
    return total / count, best


def write_reference(model: Any, tokenizer: Any, folder: Path, data: SuiteData) -> float:
    """Takes the answers of an unquantized model to the first validation rows; returns their mean loss. Raises
    `UserError` where a reply is none of the classes of a model that has them."""
    classes = classes_of(folder)
    first = data.validation[: CLASSIFIED_ROWS if classes else ROWS]
    asked = [(short_chat(data, row), row[data.reply_field]) for row in first]
    if classes and (other := sorted({reply for _, reply in asked} - {*classes})):
        raise UserError(
            f"the model answers with its classes {', '.join(classes[:3])} ({len(classes)}), and the reply {other[0]!r} "
            "of the suite is none of them; name them as the suite does in id2label of the model's config.json"
        )
    rows = [
        encode_class(tokenizer, chat, classes.index(reply)) if classes else encode(tokenizer, chat, reply)
        for chat, reply in asked
    ]
    demand_context(model.config, tokenizer, first, [row["input_ids"] for row in rows], bare="reference")
    loss, best = _answers(model, rows)
    write_json(folder / REFERENCE, {"rows": rows, "loss": loss, "best": best})
    return loss


def fidelity(model: Any, parent: Path) -> list[Measurement]:
    """Perplexity over the parent's, and the share of reply tokens where both find the same token most likely.

    Raises `BrokenArtifact` beyond `MAX_PERPLEXITY_RATIO` or below `MIN_AGREEMENT`: such a model is broken, not
    merely worse.
    """
    reference = json.loads((parent / REFERENCE).read_text(encoding="utf-8"))
    loss, best = _answers(model, reference["rows"])
    pairs = [a == b for x, y in zip(best, reference["best"], strict=True) for a, b in zip(x, y, strict=True)]
    ratio, agreement = math.exp(min(loss - reference["loss"], 50.0)), sum(pairs) / len(pairs)
    if not math.isfinite(loss) or ratio > MAX_PERPLEXITY_RATIO or agreement < MIN_AGREEMENT:
        small = not math.isfinite(loss) and str(model.dtype) == "torch.float16"
        overflown = "; its activations leave the range of float16: take quantization=bf16" if small else ""
        raise BrokenArtifact(
            f"broken against its parent: perplexity × {ratio:.3g} (limit {MAX_PERPLEXITY_RATIO}), "
            f"token agreement {agreement:.0%} (limit {MIN_AGREEMENT:.0%}){overflown}"
        )
    return [
        Measurement("fidelity/perplexity_ratio", ratio, "×", "lower", len(pairs)),
        Measurement("fidelity/token_agreement", agreement, "share", "higher", len(pairs)),
    ]
