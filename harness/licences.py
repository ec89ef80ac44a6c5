"""What is stated of licence and source of rows and weights: in a suite's `card.md`, a model's card, a GGUF file.

Empty text wherever nothing is stated: a licence is never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.types import Json

WORDS = ("license", "licence", "notice", "use_policy", "copying")
TEXTS = tuple("".join(f"[{c.upper()}{c}]" if c.isalpha() else c for c in word) + "*" for word in WORDS)  # of files
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")
LICENCE = r"#+\s*licen[cs]es?:?|##+[^\n]*\blicen[cs](?:es?|ing)\b[^\n]*"  # a title may hold it otherwise
STATED = re.compile(r"^[-*_> ]*licen[cs]es?[*_ ]*:[*_]*(.+)$", re.MULTILINE | re.IGNORECASE)  # in a line of its own
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```\s*?$", re.MULTILINE | re.DOTALL)
MADE = r"#+\s*How the rows were made"
SENTENCE = re.compile(r".*?\.(?=\s|$)|.+")


@dataclass(frozen=True, slots=True)
class Stated:
    """What a licence is called (empty: nothing is stated), its identifier on the Hub (`other` for a maker's own, and
    for several), and where its text stands, if that is told."""

    name: str = ""
    identifier: str = ""
    link: str = ""

    def facts(self) -> dict[str, Json]:
        """As a build's manifest keeps it."""
        return {"licence": self.name, "licence_id": self.identifier, "licence_link": self.link}

    @classmethod
    def of(cls, facts: Mapping[str, Json]) -> Stated | None:
        """As a build's manifest kept it; None where it kept none."""
        found = [facts.get(key) for key in cls().facts()]
        return None if None in found else cls(*map(str, found))


def _card(folder: Path) -> str:
    """A suite's card, its fenced blocks as plain text."""
    card = folder / "card.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return FENCED.sub(lambda block: re.sub(r"^#+\s*", "", block[1], flags=re.MULTILINE), text)


def _section(text: str, heading: str) -> str:
    """The text under the first such heading of a suite's card that has any, on one line; nothing where it waits to be
    filled."""
    under = rf"^(?:{heading})\s*$(.*?)(?=^#|\Z)"
    found = re.findall(under, text, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    said = (" ".join(section.split()) for section in found)
    return next((s for s in said if s and "TO FILL" not in s), "")


def rows_licence(folder: Path) -> str:
    """What a suite's card says under `Licence`, or another heading of a section that holds the word, else in a line
    that begins with it."""
    text = _card(folder)
    found = (line.strip() for line in STATED.findall(text))
    return _section(text, LICENCE) or next((line for line in found if line and "TO FILL" not in line), "")


def rows_source(folder: Path) -> str:
    """The first sentence of what a suite's card says of how its rows were made."""
    said = _section(_card(folder), MADE)
    return found[0] if (found := SENTENCE.match(said)) else ""


def card_licence(card: Path) -> Stated:
    """What a model card in the Hub's form names. Nothing where the card cannot be read."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return Stated()
    stated = data.get("license") or ""
    names = [str(name) for name in stated] if isinstance(stated, list) else [str(stated)]
    name = str(data.get("license_name") or ", ".join(names))
    return Stated(name, names[0] if len(names) == 1 else "other", str(data.get("license_link") or ""))


def gguf_licence(reader: Any) -> Stated:
    """What the metadata of a GGUF file say (`general.license`, as the format defines it, and its name and link). A text
    that is no identifier is taken for the name of a licence of its maker's own."""
    keys = ("general.license", "general.license.name", "general.license.link")
    stated, name, link = (str(field.contents()) if (field := reader.get_field(key)) else "" for key in keys)
    identifier = stated.lower() if IDENTIFIER.fullmatch(stated.lower()) else "other" if stated or name else ""
    return Stated(name or stated, identifier, link)
