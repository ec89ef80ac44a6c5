"""What is stated of licence and source of rows and weights: in a suite's `card.md`, a model's card, a GGUF file.

Empty text wherever nothing is stated: a licence is never guessed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LICENCE = r"#+\s*licen[cs]es?:?|##+[^\n]*\blicen[cs](?:es?|ing)\b[^\n]*"  # a title may hold it otherwise
MADE = r"#+\s*How the rows were made"
SENTENCE = re.compile(r".*?\.(?=\s|$)|.+")


def _section(folder: Path, heading: str) -> str:
    """The text under the first such heading of a suite's card that has any, on one line; nothing where it waits to be
    filled."""
    card = folder / "card.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    under = rf"^(?:{heading})\s*$(.*?)(?=^#|\Z)"
    found = re.findall(under, text, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    said = (" ".join(section.split()) for section in found)
    return next((s for s in said if s and "TO FILL" not in s), "")


def rows_licence(folder: Path) -> str:
    """What a suite's card says under `Licence`, or another heading of a section that holds the word."""
    return _section(folder, LICENCE)


def rows_source(folder: Path) -> str:
    """The first sentence of what a suite's card says of how its rows were made."""
    said = _section(folder, MADE)
    return found[0] if (found := SENTENCE.match(said)) else ""


def card_licence(card: Path) -> tuple[str, str]:
    """What a model card in the Hub's form names: the licence, and its identifier there (`other` for a maker's own, and
    for several). Nothing where the card cannot be read."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return "", ""
    stated = data.get("license") or ""
    names = [str(name) for name in stated] if isinstance(stated, list) else [str(stated)]
    return str(data.get("license_name") or ", ".join(names)), names[0] if len(names) == 1 else "other"


def gguf_licence(reader: Any) -> str:
    """What the metadata of a GGUF file say (`general.license`, as the format defines it)."""
    field = reader.get_field("general.license")
    return str(field.contents()) if field else ""
