"""What is known of the licences of a base model and of the rows it was tuned on, and where that is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.licences import Stated, card_licence, gguf_licence, rows_licence
from harness.models.gguf import gguf_file
from harness.models.hub import CARD, COMMIT, HUB_NAME
from harness.suite import suite_folder
from harness.types import RunRecord


@dataclass(frozen=True, slots=True)
class Licence:
    """What a licence is called (empty: not known), the sentence that says where that comes from, its identifier as the
    Hub has them (`other` for one of its maker's own; empty where none is known), and where its text stands."""

    name: str
    told: str
    identifier: str = ""
    link: str = ""


def hub_name(record: RunRecord) -> str:
    """The base model's name on the Hub; empty where it came from a folder or a package. A folder may be called as
    one there, so what it was made from counts: a commit, or what a folder held."""
    name = str(record.params("model").get("id", ""))
    content = (record.steps.get("base", {}).get("preimage") or {}).get("content")
    local = Path(name).is_dir() if content is None else not COMMIT.fullmatch(content)
    return name if HUB_NAME.fullmatch(name) and not local else ""


def of_model(record: RunRecord) -> Licence:
    """The base model's licence as its build found it, which is what the weights came under; for a record of an earlier
    version, which kept no more than its name, with what is found now."""
    params: Mapping[str, Any] = record.params("model")
    target = str(record.config["model"]["target"])
    if target.endswith("DummyModel"):
        return Licence("", "The weights are random numbers that the harness made: nobody else's licence is on them.")
    facts = record.steps.get("base", {}).get("facts") or {}
    packaged, name = target.endswith("PackagedGguf"), hub_name(record)
    stated = Stated.of(facts)
    if stated is None:
        stated = _now_of_gguf(params) if packaged else _now_of_card(record, name)
        if (kept := facts.get("licence")) is not None and (stated is None or stated.name != kept):
            stated = Stated(str(kept), "")
    if stated is None and packaged:
        return Licence("", f"Not known here: the GGUF file of {record.model} is not on this machine.")
    if stated is None:
        where = f"see https://huggingface.co/{name}" if name else f"ask who made {params.get('id')}"
        return Licence("", f"Not known here: no model card of the base model was found; {where}.")
    link = stated.link
    if link and name and "://" not in link:  # a file of its repository
        link = f"https://huggingface.co/{name}/blob/{facts.get('commit') or params.get('revision') or 'main'}/{link}"
    teller = str(facts.get("source", record.model)) if packaged else "its model card"
    if not stated.name:
        return Licence("", f"Not known: {teller} names no licence.")
    says = f"the metadata of {teller} say" if packaged else f"{teller} says"
    at = f" ({link})" if link else ""
    return Licence(stated.name, f"{stated.name}{at}, as {says}.", stated.identifier, link)


def _now_of_card(record: RunRecord, name: str) -> Stated | None:
    """What the base model's card says that stands in its folder, or for the commit that was built in the Hub's cache;
    None where there is none. Nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    params = record.params("model")
    card: Any = Path(str(params.get("id", ""))) / CARD
    if name:
        commit = (record.steps.get("base", {}).get("facts") or {}).get("commit")
        card = try_to_load_from_cache(name, CARD, revision=commit or params.get("revision"))
    return card_licence(Path(card)) if isinstance(card, str | Path) and Path(card).is_file() else None


def _now_of_gguf(params: Mapping[str, Any]) -> Stated | None:
    """What the metadata of a GGUF file say; None where it is not here."""
    import gguf

    file = Path(params["path"]) if params.get("path") else gguf_file(params["package"])
    return gguf_licence(gguf.GGUFReader(file)) if file and file.is_file() else None


def of_data(record: RunRecord) -> Licence:
    """What the suite's card says of its rows, which are in the weights, and, word for word, in `prompt.json`."""
    text = rows_licence(suite_folder(record.params("suite")))
    if not text:
        return Licence(
            "", f"Not known: the card of suite {record.suite} says nothing of a licence; ask who owns its rows."
        )
    return Licence(text, f"{text.rstrip('.')} (the card of suite {record.suite}).")
