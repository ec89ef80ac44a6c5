"""Does the folder give the recorded outputs again? Its own recipe must make the recorded prompts, all of them, and its
weights, loaded by the engine that was measured, the recorded answers of the first rows, each up to a stop text.

Rows are answered in a batch of their own first. Rounding depends on a batch's shape, so where an answer differs, all
rows are answered as they were when they were measured: on the same machine that repeats every sum.
"""

from __future__ import annotations

import hashlib
import json
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.components import instantiate
from harness.environment import detect
from harness.execute import machine, set_threads
from harness.export.folder import DEPLOYMENT
from harness.measure.quality import keys_of, until
from harness.suite import load as load_suite
from harness.types import Completion, Component, Context, RunRecord

Row = Mapping[str, Any]
BATCHED = (
    " Rounding follows the shape of a batch: served one at a time, or by another program, some answers take other "
    "words than those that were scored."
)
UNPACKED = (
    " Its 4-bit weights were laid out as plain ones, as when it was scored: a 4-bit kernel, which `example.py` and "
    "servers multiply by, rounds otherwise."
)
CONTEXT = 24  # characters shown on each side of where two answers part


@dataclass(frozen=True, slots=True)
class Checked:
    """`asked` rows were answered of `recorded`. `prompts` are rows whose prompt came out differently, `answers` lines
    that say where an answer parted from the recorded one. `alone` is how many of the first rows did so in a batch of
    their own, before all were answered as measured. `why` says why nothing was checked; `elsewhere` is what differs
    here from where the outputs were recorded."""

    asked: int
    recorded: int
    prompts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    alone: int = 0
    why: str = ""
    elsewhere: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing differs; so it is where nothing was asked."""
        return not self.prompts and not self.answers


def check(folder: Path, record: RunRecord, rows: Sequence[Row], limit: int) -> Checked:
    """Loads a deployable folder and answers the first `limit` recorded rows with it."""
    if limit < 1:
        return Checked(0, len(rows), why="--check-rows 0")
    if not rows:
        return Checked(0, 0, why="this cell has no recorded outputs")
    ends = json.loads((folder / DEPLOYMENT).read_text(encoding="utf-8"))["stop"]
    if not ends and all(r["tokens"] == 0 for r in rows):
        return Checked(0, len(rows), why="the task asks for the likeliest of given choices, which rows do not keep")
    differs = tuple(str(r["id"]) for r, text in zip(rows, _prompts(folder, rows), strict=True)
                    if hashlib.sha256(text.encode()).hexdigest()[:16] != r["prompt_hash"])  # fmt: skip
    elsewhere = tuple(_elsewhere(record))
    if differs:
        return Checked(0, len(rows), prompts=differs, elsewhere=elsewhere)
    with machine(alone=False):
        answer = _session(folder, record, ends)
        asked = rows[:limit]
        parted = _parted(asked, answer(asked), ends)
        alone = len(parted) if len(asked) < len(rows) else 0
        if alone:
            asked = rows
            parted = _parted(rows, answer(rows), ends)
    return Checked(len(asked), len(rows), (), tuple(parted), alone, elsewhere=elsewhere)


def _prompts(folder: Path, rows: Sequence[Row]) -> list[str]:
    """The prompts that the folder's own `recipe.py` makes of the recorded messages."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    render = runpy.run_path(str(folder / "recipe.py"))["render"]  # an import would leave its bytecode in the folder
    return [render(tokenizer, r["message"]) for r in rows]


def _session(folder: Path, record: RunRecord, ends: Sequence[str]) -> Any:
    """The engine that was measured over the folder, as a function from rows to completions that end at `ends`, as
    then: where such a text is a special token, no decoded answer holds it."""
    environment = detect()
    set_threads(record.steps["quality"].get("threads") or environment.cpu_count)
    context = Context(environment.device, environment.dtype, record.seed, lambda share, told: None)
    engine = Component(**record.config["engine"])
    output = load_suite(Component(**record.config["suite"])).output if engine.params.get("constrained") else ""
    session = instantiate(engine).start(folder, context, quality=True, output=output)
    limit = record.params("suite")["max_new_tokens"]
    return lambda rows: session.generate(
        [r["prompt"] for r in rows], limit, ends=ends, keys=keys_of([str(r["id"]) for r in rows])
    )


def _parted(rows: Sequence[Row], made: Sequence[Completion], ends: Sequence[str]) -> list[str]:
    """A line for each row whose answer, up to the first of the stop texts, is not the recorded one."""
    found = []
    for row, completion in zip(rows, made, strict=True):
        was, now = str(row["output"]), until(completion.text, ends)
        if now != was:
            at = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
            near = slice(max(0, at - CONTEXT), at + CONTEXT)
            found.append(f"row {row['id']}: parts at character {at}: recorded …{was[near]!r}…, now …{now[near]!r}…")
    return found


def _elsewhere(record: RunRecord) -> list[str]:
    """What is different here from where the outputs were recorded."""
    here, then = detect(), record.environment
    found = [f"{what} {then.get(what)} there, {getattr(here, what)} here" for what in ("device", "hardware", "dtype")
             if then.get(what) != getattr(here, what)]  # fmt: skip
    versions: Mapping[str, str] = then.get("versions", {})
    return found + [f"{name} {version} there, {here.versions.get(name, 'none')} here"
                    for name, version in versions.items() if here.versions.get(name) != version]  # fmt: skip


def told(found: Checked, record: RunRecord) -> str:
    """The outcome in words, for the model card and the terminal."""
    if not found.asked and not found.prompts:
        return f"Not checked: {found.why}."
    if found.prompts:
        some = ", ".join(found.prompts[:3])
        return f"{len(found.prompts)} of {found.recorded} prompts came out differently from those recorded ({some})."
    how = "in a batch of their own"
    if found.alone:
        how = f"batched as when they were measured; {found.alone} of the first parted in a batch of their own"
    if found.passed:
        return (
            f"Loaded from this folder and asked {found.asked} of the {found.recorded} recorded rows anew, it gave each "
            f"recorded output to the letter ({how}), and all {found.recorded} recorded prompts came out the same."
            + (BATCHED if found.alone else "")
            + (UNPACKED if unpacked(record) else "")
        )
    parted = f"{len(found.answers)} of {found.asked} rows gave another output than recorded ({how})."
    return f"{parted} {expected(found, record)}"


def unpacked(record: RunRecord) -> bool:
    """Whether answers are those of 4-bit weights laid out as plain ones (`harness.unpacking`)."""
    return str(record.steps.get("quality", {}).get("facts", {}).get("unpacked", "")).startswith("4-bit")


def expected(found: Checked, record: RunRecord) -> str:
    """What differences may come from."""
    if found.elsewhere:
        why = f"This is not where they were recorded ({'; '.join(found.elsewhere)}): "
    else:
        why = "Nothing that is recorded of the machine or its libraries has changed: "
    engine: Mapping[str, Any] = record.params("engine")
    dtype = str(record.environment.get("dtype"))
    if engine.get("temperature"):
        why += "drawn tokens follow from the seed, and part where rounding moves a chance across a draw; "
    elif dtype in ("float16", "bfloat16"):
        why += f"in {dtype}, near ties between two tokens fall either way with other kernels; "
    else:
        why += f"in {dtype}, answers part only at exact near ties; "
    return why + (
        "answers of other hardware or versions may differ so." if found.elsewhere else "the artifact itself is suspect."
    )
