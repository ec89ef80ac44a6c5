"""Which cell is exported, where its weights stand, and how to build them again where they stand no more."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import ledger
from harness.errors import UserError
from harness.escaping import config_value
from harness.files import yaml_keys
from harness.resources import resource
from harness.runs import read
from harness.store import MANIFEST, faults, read_manifest
from harness.types import GROUPS, Json, RunRecord, Status, is_side
from harness.wording import labels, nearest, number

BEST = "best"
STORE = ".harness/store"


def chosen(run: Path, name: str) -> tuple[RunRecord, str]:
    """The record of the cell called `name` (its id, or the short name of reports; `best`: the recommended one), and why
    it. Raises `UserError` for a cell that there is not or that has nothing to export, and for `best` where there is no
    recommendation, or one of several cells that were judged together."""
    if name == BEST:
        return _recommended(run)
    records = {r.id: r for r in ledger.read_records(run)}
    short = {label: i for i, label in labels(i for i in records if not is_side(i)).items()}
    found = records.get(name) or records.get(short.get(name, ""))
    if found is None:
        raise UserError(f"--cell {name}: no such cell in {run}{nearest(name, list(short))}")
    if found.status is not Status.OK:
        raise UserError(f"--cell {name}: the cell {found.status} ({found.reason}), so there is nothing to export")
    return found, "chosen by name"


def _recommended(folder: Path) -> tuple[RunRecord, str]:
    run = read(folder)
    ended = sorted(run.names[i] for i in run.records)
    name_one = f"name a cell with --cell; there is {', '.join(ended) or 'none'}"
    if not (decided := run.decided()):
        raise UserError(
            f"{folder}: {len(run.pending)} cells have not ended, so none is recommended yet; run it on, or {name_one}"
        )
    decision, _ = decided
    if decision.chosen is None:
        raise UserError(f"{folder}: {decision.sentences[0].rstrip('.')}; {name_one}")
    by = f"the policy {run.policy.name}"
    ok = [r for r in run.ok if r.id in run.recommended(decision)]
    together = [(run.names[r.id], m) for r in ok if (m := run.quality(r))]
    if len(together) > 1:
        told = ", ".join(f"{shlex.quote(name)} ({number(m.value, m.unit)})" for name, m in together)
        raise UserError(
            f"{folder}: {by} recommends {len(together)} cells of several seeds or suites, which it judged together, "
            f"and an export is of one; name it with --cell: {told}"
        )
    return run.records[decision.chosen], f"recommended by {by}"


def stores(run: Path, given: Path | None) -> list[Path]:
    """Where the builds of a run may stand: as given, else what its configuration says, which is relative to the folder
    it was run in: this one, or one above the run folder."""
    if given:
        return [given]
    file = run / "config.yaml"
    try:
        named = Path(str((yaml_keys(file) if file.is_file() else {}).get("store") or STORE))
    except ValueError as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}; give --store DIR") from error
    return [named] if named.is_absolute() else [named, *(above / named for above in run.absolute().parents)]


def weights(record: RunRecord, run: Path, given: Path | None, thorough: bool = True) -> Path:
    """The folder of a cell's weights in the first store that has it. Raises `UserError` where they are gone or not
    whole, of which every byte is read when `thorough`, with the command that builds them again."""
    places = stores(run, given)
    key = record.steps.get("quantize", {}).get("key")
    builds = (place.absolute() / "quantize" / str(key) for place in places)
    found = next((build for build in builds if (build / MANIFEST).is_file()), None)
    store = str(given or places[0])
    if found and found.parent.parent != Path(store).absolute():
        store = str(found.parent.parent)
    if found is None:
        where = f"are not in the store {store}"
    elif wrong := faults(found, thorough):
        where = f"are not whole in {found} ({'; '.join(wrong)})"
    elif "evicted_unix" in read_manifest(found):
        where = f"were evicted from {found}"
    else:
        return found
    first = f"rm -r {shlex.quote(str(found))}\n  " if found else ""  # it may count as done, as what was measured stands
    again = first + (command_again(record, store) or "the command of its grid")
    mend = f"build them again with\n  {again}\nand export from the run that it makes"
    raise UserError(f"{run}: the weights of {record.id} (quantize/{key}) {where}; give --store DIR, or {mend}")


def _changed(now: Mapping[str, Any], was: Mapping[str, Any], above: str) -> Iterator[tuple[str, Json]]:
    """The dotted keys whose values in `was` differ from those in `now`."""
    for key, value in was.items():
        if isinstance(value, Mapping) and isinstance(now.get(key), Mapping):
            yield from _changed(now[key], value, f"{above}.{key}")
        elif key not in now or now[key] != value:
            yield ("" if key in now else "+") + f"{above}.{key}", value


def _override(key: str, value: Json) -> str:
    """One override for a shell."""
    return shlex.quote(f"{key}={config_value(value)}")


def command_again(record: RunRecord, store: str = STORE) -> str | None:
    """The command that carries out just this cell with the same knobs in a store; None where its choices are gone.
    Its builds get the same keys as long as the libraries that shape them have the same versions."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    config = record.config
    names = [f"{group}={config[group]['name']}" for group in GROUPS]
    names += [f"profile={record.profile}", *([f"seed={record.seed}"] if record.seed else [])]
    apart = [] if store == STORE else [_override("store", store)]
    own = [f"hydra.searchpath=[file://{Path('conf').resolve()}]"] if Path("conf").is_dir() else []
    try:
        with initialize_config_dir(str(resource("conf").resolve()), version_base="1.3"):
            now: Any = OmegaConf.to_container(compose("config", [*names, *own]), resolve=True)
    except Exception:  # a choice of another machine; what Hydra and OmegaConf raise has no common root
        return None
    changed = [c for g in GROUPS for c in _changed(now[g], record.params(g), g)]
    return " ".join(["python -m harness", *names, *(_override(k, v) for k, v in changed), *apart])
