"""What is known of the licences of a base model and of the rows it was tuned on, and where that is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.licences import Stated, rows_licence
from harness.models.dummy import RANDOM
from harness.models.hub import COMMIT, HUB_NAME
from harness.suite import suite_folder
from harness.types import RunRecord


@dataclass(frozen=True, slots=True)
class Licence(Stated):
    """What is known of a licence, and the sentence that says where that comes from."""

    told: str = ""


def hub_name(record: RunRecord) -> str:
    """The base model's name on the Hub; empty where it came from a folder or a package. A folder may be called as
    one there, so what it was made from counts: a commit, or what a folder held."""
    name = str(record.params("model").get("id", ""))
    content = (record.steps.get("base", {}).get("preimage") or {}).get("content")
    local = Path(name).is_dir() if content is None else not COMMIT.fullmatch(content)
    return name if HUB_NAME.fullmatch(name) and not local else ""


def of_model(record: RunRecord) -> Licence:
    """The base model's licence as its build found it, which is what the weights came under."""
    facts: Mapping[str, Any] = record.steps.get("base", {}).get("facts") or {}
    stated, name, source = Stated.of(facts), hub_name(record), str(facts.get("source", record.model))
    if source == RANDOM:
        return Licence(told="The weights are random numbers that the harness made: nobody else's licence is on them.")
    if stated is None:  # a class of the user's own
        where = f"see https://huggingface.co/{name}" if name else "ask who made it"
        return Licence(told=f"Not known here: the build of {record.model} tells no licence; {where}.")
    of_hub = "commit" in facts  # or of a folder
    if not stated.name:
        return Licence(told=f"Not known: {'its model card' if of_hub else source} names no licence.")
    link = stated.link
    if link and name and "://" not in link:  # a file of its repository
        commit = facts.get("commit") or record.digest_of("base", "content") or "main"
        link = f"https://huggingface.co/{name}/blob/{commit}/{link}"
    says = "its model card says" if of_hub else f"the metadata of {source} say"
    at = f" ({link})" if link else ""
    return Licence(stated.name, stated.identifier, link, f"{stated.name}{at}, as {says}.")


def of_data(record: RunRecord) -> Licence:
    """What the suite's card says of its rows, which are in the weights, and, word for word, in `prompt.json`."""
    text = rows_licence(suite_folder(record.params("suite")))
    if not text:
        told = f"Not known: the card of suite {record.suite} says nothing of a licence; ask who owns its rows."
        return Licence(told=told)
    return Licence(text, told=f"{text.rstrip('.')} (the card of suite {record.suite}).")
