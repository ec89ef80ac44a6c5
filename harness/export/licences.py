"""What is known of the licences of a base model and of the rows it was tuned on, and where that is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.licences import card_licence, gguf_licence, rows_licence
from harness.models.gguf import gguf_file
from harness.models.hub import CARD, COMMIT, HUB_NAME
from harness.suite import suite_folder
from harness.types import RunRecord


@dataclass(frozen=True, slots=True)
class Licence:
    """What a licence is called (empty: not known), the sentence that says where that comes from, and its identifier as
    the Hub has them (`other` for one of its maker's own; empty where none is known)."""

    name: str
    told: str
    identifier: str = ""


def hub_name(record: RunRecord) -> str:
    """The base model's name on the Hub; empty where it came from a folder or a package. A folder may be called as
    one there, so what it was made from counts: a commit, or what a folder held."""
    name = str(record.config["model"]["params"].get("id", ""))
    content = (record.steps.get("base", {}).get("preimage") or {}).get("content")
    local = Path(name).is_dir() if content is None else not COMMIT.fullmatch(content)
    return name if HUB_NAME.fullmatch(name) and not local else ""


def of_model(record: RunRecord) -> Licence:
    """The base model's licence, from its GGUF file, its folder's model card, or its card in the Hub's cache."""
    params: Mapping[str, Any] = record.config["model"]["params"]
    target = str(record.config["model"]["target"])
    if target.endswith("DummyModel"):
        return Licence("", "The weights are random numbers that the harness made: nobody else's licence is on them.")
    if target.endswith("PackagedGguf"):
        return _of_gguf(record)
    name = hub_name(record)
    card = _cached_card(name, params.get("revision")) if name else Path(str(params.get("id", ""))) / CARD
    if card is None or not card.is_file():
        where = f"see https://huggingface.co/{name}" if name else f"ask who made {params.get('id')}"
        return Licence("", f"Not known here: no model card of the base model was found; {where}.")
    licence, identifier = card_licence(card)
    told = f"{licence}, as its model card says." if licence else "Not known: its model card names no licence."
    return Licence(licence, told, identifier)


def _cached_card(name: str, revision: str | None) -> Path | None:
    """A model card in the Hub's cache; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, CARD, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _of_gguf(record: RunRecord) -> Licence:
    """What the metadata of its GGUF file say."""
    import gguf

    params = record.config["model"]["params"]
    file = Path(params["path"]) if params.get("path") else gguf_file(params["package"])
    if file is None or not file.is_file():
        return Licence("", f"Not known here: the GGUF file of {record.model} is not on this machine.")
    name = gguf_licence(gguf.GGUFReader(file))
    told = f"{name}, as the metadata of {file.name} say." if name else f"Not known: {file.name} names no licence."
    return Licence(name, told, name.lower())


def of_data(record: RunRecord) -> Licence:
    """What the suite's card says of its rows, which are in the weights, and, word for word, in `prompt.json`."""
    text = rows_licence(suite_folder(record.config["suite"]["params"]))
    if not text:
        return Licence(
            "", f"Not known: the card of suite {record.suite} says nothing of a licence; ask who owns its rows."
        )
    return Licence(text, f"{text.rstrip('.')} (the card of suite {record.suite}).")
