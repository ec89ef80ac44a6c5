"""Lays a cell's artifact down as a folder that answers by itself: weights, tokenizer, prompt recipe, retrieval index,
and the small programs that use them."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from harness.directory import attention_of, classes_of, computed_in, quantization_of, stored_dtype
from harness.engine.ends import Ends
from harness.errors import UserError
from harness.files import locked, sha256
from harness.ledger import sealed_record
from harness.measure.quality import ends_of
from harness.models.hub import ADAPTER, kept
from harness.prompt import Prompter, load_recipe, stops, template_as_scored
from harness.resources import resource
from harness.retrieval import save
from harness.store import folder_bytes, write_json
from harness.suite import load as load_suite
from harness.types import Component, Context, Json, RunRecord, StepKind

SUMS = "SHA256SUMS"
DEPLOYMENT = "deployment.json"
PROGRAMS = ("recipe.py", "example.py")
NAMES_A_PATH = ("base_model_name_or_path", "_name_or_path")


def stop_texts(record: RunRecord) -> list[str]:
    """The texts at which the suite's task ended answers when they were scored; none where nothing was generated.

    Of a record that does not say, raises `UserError` where the suite is gone, or scores otherwise now, or lm-eval
    cannot read its task.
    """
    if StepKind.QUALITY not in record.steps:
        return []
    facts = record.steps["quality"].get("facts") or {}
    if "ends" in facts:
        return list(facts["ends"])
    suite = Component(**record.config["suite"])
    data, name = load_suite(suite), suite.params["task"]
    if facts.get("scoring_digest", data.scoring_digest) != data.scoring_digest:
        raise UserError(
            f"{data.folder}: what this suite scores by changed since this run, and with it maybe where answers end; "
            "bring back what stood there, or run again"
        )
    try:
        return list(ends_of(data, name))
    except Exception as error:  # whatever lm-eval and a suite's own code raise
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{data.folder}: lm-eval cannot read the task {name}, which says where answers end ({told}); mend it"
        ) from error


def lay_out(
    source: Path, out: Path, record: RunRecord, served_as: str, base: str, ends: Sequence[str]
) -> dict[str, Json]:
    """Fills an empty folder from a build of the store; returns what `deployment.json` says. `base` is what the base
    model is called, in the place of the path that it had in the store; `ends` are the stop texts.

    Raises `UserError` where the disk is too full.
    """
    need, free = folder_bytes(source), shutil.disk_usage(out).free
    if need > free:
        raise UserError(f"{out.parent}: {free / 1e9:.1f} GB free and {need / 1e9:.1f} GB are needed; free some")
    adapter = [path for pattern in ADAPTER for path in (source / "adapter").glob(pattern)]
    for path in (*kept(source), *adapter):
        target = out / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)  # with the rights of any new file: weights may come readable by their owner alone
    for config in ("config.json", "adapter/adapter_config.json"):
        _forget_paths(out / config, base)
    recipe = load_recipe(out)
    if recipe.method != "none" and recipe.articles:
        save(recipe.method, recipe.articles, out / "retrieval", source)
    for name in PROGRAMS:
        shutil.copyfile(resource("reports") / "deployable" / name, out / name)
    write_json(out / "record.json", sealed_record(record))
    deployment = _deployment(out, record, served_as, ends)
    write_json(out / DEPLOYMENT, deployment)
    return deployment


def _forget_paths(file: Path, base: str) -> None:
    """Puts the base model's name where a configuration names a folder of this machine."""
    if not file.is_file():
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    if found := {k: base for k in NAMES_A_PATH if config.get(k)}:
        write_json(file, {**config, **found})


def prompt_as_scored(folder: Path) -> None:
    """Writes the chat template by which whoever serves the folder renders the recipe's messages as they were scored,
    and has the tokenizer give a model no more than it was given then: some name inputs that theirs does not take."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    chat = Prompter(replace(load_recipe(folder), method="none"))("A question?")
    (folder / "chat_template.jinja").write_text(template_as_scored(tokenizer, chat), encoding="utf-8")
    file = folder / "tokenizer_config.json"
    if file.is_file():  # some programs read a template there
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("chat_template", None)
        write_json(file, {**config, "model_input_names": ["input_ids", "attention_mask"]})


def decode_as_scored(folder: Path) -> None:
    """Writes the generation config by which whoever serves the folder decodes as the measured engine did: with all
    tokens that end an answer (a base model's own config need not name what closes a turn of the chat template, nor the
    stop texts of a task that are special tokens), with the temperature and `top_p` by which answers were drawn, if they
    were, and without the penalties, beams and cuts that a base model's own asks for."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    if classes_of(folder):
        return
    file = folder / "generation_config.json"
    if file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
    else:  # as transformers makes one when it loads the folder
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(str(folder))).to_diff_dict()
    named = config.get("eos_token_id")
    own = named if isinstance(named, list) else [] if named is None else [named]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    deployment = json.loads((folder / DEPLOYMENT).read_text(encoding="utf-8"))
    ends = stops(GenerationConfig(eos_token_id=named), tokenizer) | Ends(tokenizer, deployment["stop"]).stops
    tokens = {k: config.get(k) for k in ("bos_token_id", "pad_token_id")}
    tokens["eos_token_id"] = [*own, *sorted(ends - {*own})] or None
    sampling = deployment["sampling"]
    drawing = {"do_sample": True, **sampling, "top_k": 0} if sampling else {}  # transformers' own top_k is 50
    write_json(file, {**{k: v for k, v in tokens.items() if v is not None}, **drawing})


def _deployment(folder: Path, record: RunRecord, served_as: str, ends: Sequence[str]) -> dict[str, Json]:
    """What `example.py` must know that no other file says. A classifier draws nothing, and neither a grammar nor a stop
    text bounds what it answers."""
    classes = classes_of(folder)
    engine: Mapping[str, Any] = {} if classes else record.params("engine")
    sampling = {"temperature": engine["temperature"], "top_p": engine["top_p"]} if engine.get("temperature") else None
    device = str(record.environment.get("device"))
    facts = record.steps.get("quality", record.steps.get("latency", {})).get("facts") or {}
    gpu = Context("cuda", "float16", record.seed, lambda share, told: None)
    half = computed_in(quantization_of(folder).get("quant_method"), stored_dtype(folder), gpu)
    dtype = {"cpu": "float32", "cuda": half} | {device: str(facts.get("dtype") or record.environment.get("dtype"))}
    return {
        "cell": record.id, "served_as": served_as, "max_new_tokens": record.params("suite")["max_new_tokens"],
        "classes": list(classes), "sampling": sampling, "constrained": bool(engine.get("constrained")),
        "dtype": dtype, "loading": attention_of(folder), "stop": [] if classes else list(ends),
    }  # fmt: skip


def checksums(folder: Path) -> str:
    """The lines of `sha256sum` for all files of a folder, which `sha256sum -c SHA256SUMS` checks."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    return "".join(f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)


def place(target: Path, force: bool, fill: Callable[[Path], bool]) -> bool:
    """Has `fill` make a folder beside `target` and, where that returns True, puts it there whole. What stood there
    stays until then, and goes only with `force` and if it was an export itself.

    Raises `UserError` for a target that is taken or cannot be written, and what `fill` raises.
    """
    target = target.resolve()
    _clear(target)
    if taken := _taken(target, force):
        raise UserError(taken)
    name = uuid4().hex[:8]
    part, old = (target.with_name(f".{target.name}.{kind}-{name}") for kind in ("part", "old"))
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--to {target}: cannot be written ({error.strerror}); choose another folder") from error
    at_work = None
    with suppress(OSError):  # where no folders are locked nobody clears away this one either
        at_work = locked(part)
    try:
        if not fill(part):
            return False
        try:
            if target.exists():
                target.rename(old)
            part.rename(target)
        except OSError as error:
            raise UserError(f"--to {target}: cannot be put there ({error.strerror}); choose another folder") from error
        return True
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
        if at_work is not None:
            os.close(at_work)


def _clear(target: Path) -> None:
    """Takes away what an export that was killed left beside a target, and puts back what stood there before it. One at
    work holds a lock on its part."""
    beside = f".{target.name}."
    for name in {p.name.removeprefix(beside) for p in target.parent.glob(f"{glob.escape(beside)}*-*")}:
        kind, _, maker = name.partition("-")
        if not re.fullmatch(r"(old|part)-[0-9a-f]{8}", name):
            continue
        left, part = target.with_name(beside + name), target.with_name(f"{beside}part-{maker}")
        with suppress(OSError):  # BlockingIOError: at work
            if part.is_dir():
                os.close(locked(part))
            if kind == "old" and not target.exists():
                left.rename(target)
            else:
                shutil.rmtree(left)


def _taken(target: Path, force: bool) -> str:
    """Why a folder cannot be put in a place; empty where it can."""
    if target.is_mount():
        return f"--to {target}: a file system of its own, which no folder can take the place of; give a folder in it"
    empty = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if not empty and (not (target / SUMS).is_file() or not (target / DEPLOYMENT).is_file()):
        return f"--to {target}: holds something that is no export; choose another folder, or remove it yourself"
    with suppress(FileNotFoundError):  # a working directory that was removed
        if Path.cwd().is_relative_to(target):
            return f"--to {target}: this runs in it, and it would be replaced; run from another folder"
    if force or empty:
        return ""
    return f"--to {target}: holds an export already; choose another folder, or replace it with --force"
