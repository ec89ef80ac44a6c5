"""Reads a suite folder: rows, knowledge base and instructions, with every mistake told at once.

`train.jsonl` and `eval.jsonl` hold one JSON object a line; `kb.jsonl` holds articles; the instructions are
plain text. A fifth of the training groups is held out as the validation split, by the hash of the group, so
the split is the same on every machine and a group never stands on both sides.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError
from harness.files import parse, sha256, unread
from harness.leakage import INSTRUCTIONS, MODES, TRAINING, article_texts, normalised, overlaps
from harness.resources import resource
from harness.types import Article, Component, Overlap, SuiteData, plain
from harness.wording import plural

VALIDATION_SHARE = 0.2
FILES = ("train_file", "eval_file", "knowledge_file", "instructions_file", "output_file", "task_file")
NULLABLE = ("eval_file", "knowledge_file", "output_file", "task_file")
TEXTS = ("folder", "task", *FILES, "system", "asked", "message_field", "reply_field", "primary")
CARD = "card.md"
NEEDED = (
    "folder", "task", "task_file", "train_file", "eval_file", "knowledge_file", "instructions_file", "system",
    "message_field", "reply_field", "primary", "max_new_tokens", "train_rows", "eval_rows",
)  # fmt: skip


def suite_folder(params: Mapping[str, Any]) -> Path:
    """The suite's folder: below `suites/` here when that exists, else one of that name here with the training file in
    it, else below the packaged `suites/`. With a slash it is a path, and that comes first."""
    given = Path(params["folder"])
    own = Path("suites") / given
    is_path = given.is_absolute() or "/" in str(params["folder"])
    if given.is_dir() and (is_path or (not own.is_dir() and (given / params["train_file"]).is_file())):
        return given.absolute()
    return own.absolute() if own.is_dir() else resource("suites") / given


def _no_texts(p: Mapping[str, Any]) -> list[str]:
    """A line for each key whose value is not the text that it must be; only a system text may be an empty one."""
    return [
        f"suite.{key}={p[key]!r}: must be {'the name of a file' if key in FILES else 'text'}"
        + (", or null" if key in NULLABLE else "")
        for key in TEXTS
        if key in p
        and not (isinstance(p[key], str) and (p[key].strip() or key == "system"))
        and not (p[key] is None and key in NULLABLE)
    ]


def _others(folder: Path, p: Mapping[str, Any]) -> list[Path]:
    """The files of a suite's folder, and below it, that its task and scorers may read: all but the card, the
    instructions and the rows, which are hashed as such."""
    apart = (CARD, p["instructions_file"], p["train_file"], p["eval_file"], p["knowledge_file"])
    hidden = (".", "__pycache__")
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path not in {folder / name for name in apart if name}
        and not any(part.startswith(hidden) for part in path.relative_to(folder).parts)
        and path.is_file()
    ]


def _code(folder: Path, p: Mapping[str, Any], mistakes: list[str]) -> list[tuple[str, str]]:
    """What scores rest on beside the rows: code and the task file as they stand, of any other file its SHA-256. Scorers
    that name the training file read it, beyond the rows that are trained on too; so with the instructions. A `.jsonl`
    that no code names, nor makes a name for, nor finds in a listing, holds rows of another suite."""
    texts = sorted({*folder.glob("*.py"), *([folder / p["task_file"]] if p["task_file"] else [])})
    found = [(file.name, _read_text(file, mistakes)) for file in texts]
    said = "\n".join([*(text for _, text in found), *_written(folder, p).values()])
    named = (folder / p[key] for key in ("train_file", "instructions_file"))
    read = {file for file in named if file.is_file() and file.name in said}
    listed = re.search(r"\b(i?glob|rglob|iterdir|listdir|scandir|walk)\(", said)
    every = listed or not all((folder / name).is_file() for name in re.findall(r"[\w.-]*\.jsonl", said))
    read |= {file for file in _others(folder, p) if file.suffix != ".jsonl" or every or file.name in said}
    for file in sorted(read - {*texts}):
        try:
            found.append((file.relative_to(folder).as_posix(), sha256(file)))
        except OSError as error:
            mistakes.append(unread(file, error))
    return found


def _written(folder: Path, p: Mapping[str, Any]) -> dict[Path, str]:
    """The text of the code and of the YAML files (of which those to include may have no suffix) in a suite's folder."""
    return {file: _read_text(file, []) for file in _others(folder, p) if file.suffix in (".py", ".yaml", ".yml", "")}


def _included(path: Path, text: str) -> list[Path]:
    """The files that lm-eval reads before a YAML file, as that names them."""
    if path.suffix != ".py" and re.search(r"\binclude\b", text):
        with suppress(yaml.YAMLError, TypeError, ValueError, RecursionError):  # which lm-eval tells
            named = dict(yaml.BaseLoader(text).get_single_data()).get("include", [])
            return [path.resolve().parent / name for name in (named if isinstance(named, list) else [named])]
    return []


def _strays(folder: Path, p: Mapping[str, Any]) -> list[str]:
    """A line for each file that a suite names, or that its scorers or its task may read, and that stands outside its
    folder, by its name or through a link: a suite from elsewhere must not reach what is not its own."""
    paths = [*(folder / p[key] for key in FILES if p.get(key)), *_others(folder, p)]
    paths += [other for path, text in _written(folder, p).items() for other in _included(path, text)]
    return [
        f"{path}: stands outside the suite's folder; copy it into {folder}"
        for path in dict.fromkeys(paths)
        if "\0" in str(path) or not path.resolve().is_relative_to(folder.resolve())
    ]


def _read_text(path: Path, mistakes: list[str]) -> str:
    """A file's text, or nothing and a mistake."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        mistakes.append(f"{path}: missing; a suite needs this file")
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(unread(path, error))
    return ""


def json_lines(path: Path, text: str, mistakes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file's text with the numbers of their lines; a mistake for each line that is none."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, row {number}"
        try:
            row = parse(line)
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            mistakes.append(f"{where}: holds half a character (a lone surrogate); mend that text")
            continue
        except json.JSONDecodeError as error:
            mistakes.append(f"{where}: not JSON ({error.msg} at column {error.colno}); write one object a line")
            continue
        except ValueError as error:
            mistakes.append(f"{where}: not JSON that can be read ({error}); write one object a line")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            mistakes.append(f"{where}: a {type(row).__name__}, not an object; write {{...}}")


def _read_jsonl(path: Path, needed: tuple[str, ...], mistakes: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for number, row in json_lines(path, _read_text(path, mistakes), mistakes):
        where = f"{path}, row {number}"
        if type(row.get("id")) is int:
            row["id"] = str(row["id"])
        lacking = [key for key in needed if not isinstance(row.get(key), str) or not row[key].strip()]
        if lacking:
            mistakes.append(f"{where}: {', '.join(lacking)} missing, empty or not text; fill in each row")
            continue
        if row.get("group") is not None:
            if not (isinstance(row["group"], str | int) and str(row["group"]).strip()):
                mistakes.append(f"{where}: group is empty or no text; fill it in, or leave it out")
                continue
            row["group"] = str(row["group"]).strip()  # 7, "7" and "7 " are one group, and 0 is one
        if row["id"] in seen:
            mistakes.append(f"{where}: id {row['id']!r} stands in row {seen[row['id']]} too; make ids unique")
        seen.setdefault(row["id"], number)
        rows.append(row)
    if not rows and not any(str(path) in m for m in mistakes):
        mistakes.append(f"{path}: empty; at least one row is needed")
    return rows


def leaks(found: Sequence[Overlap], folder: Path, p: Mapping[str, Any]) -> list[str]:
    """A line for each overlap that must not be, unless it is dropped or only warned of."""
    told = []
    for o in found:
        where = folder / p["eval_file"]
        if o.source == INSTRUCTIONS:
            told.append(
                f"{where}, row {o.row!r}: its {p['message_field']} or {p['reply_field']} stands in {o.other}; write "
                "another example there, or set leakage=warn"
            )
        elif o.source != TRAINING:
            told.append(f"{where}, row {o.row!r}: article {o.other!r} of {p['knowledge_file']} is its text; remove one")
        elif o.kind == "exact":
            told.append(
                f"{where}, row {o.row!r}: its {p['message_field']} is that of training row {o.other!r}; remove one, or "
                "set leakage=drop"
            )
        else:
            told.append(
                f"{where}, row {o.row!r}: its group is also that of training row {o.other!r}; keep a group on one "
                "side, or set leakage=drop"
            )
    return told


def hashed(name: str) -> float:
    """A place from 0 to 1 for a name, the same on every machine, by which rows are split and mixed."""
    return int(hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8], 16) / 16**8


def parted(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows to train on, and those of the fifth of the groups that is set apart for validation."""
    apart = [hashed(row.get("group") or row["id"]) < VALIDATION_SHARE for row in rows]
    return [r for r, a in zip(rows, apart, strict=True) if not a], [r for r, a in zip(rows, apart, strict=True) if a]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(
        json.dumps(parts, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace")
    ).hexdigest()[:16]


def _without(
    held: Sequence[Mapping[str, Any]], train: list[dict[str, Any]], articles: tuple[Article, ...],
    message: str, reply: str,
) -> tuple[list[dict[str, Any]], tuple[Article, ...]]:  # fmt: skip
    """Training rows and articles without those that give an evaluation row away."""
    said = {normalised(r[message]) for r in held}
    groups = {r["group"] for r in held if r.get("group")}
    given = said | {normalised(r[reply]) for r in held if isinstance(r.get(reply), str)}
    kept = [r for r in train if normalised(r[message]) not in said and r.get("group") not in groups]
    return kept, tuple(a for a in articles if not given & article_texts(a))


def timing_digest(data: SuiteData, engine: Component | None) -> str:
    """A digest of what a timing sees of a suite: messages, the limit of tokens, and, where the engine keeps answers
    within it, the grammar. How answers are scored is no part of it."""
    asked = [row[data.message_field] for row in data.evaluation or data.validation]
    held = data.output if engine and engine.params.get("constrained") else ""
    return _digest(asked, data.max_new_tokens, held)


def load(suite: Component) -> SuiteData:
    """The rows of a suite, limited to its `train_rows` and `eval_rows` (None: all).

    Raises `UserError` with one line a mistake: keys that are missing or of another type, missing, empty or unreadable
    files, rows that are no JSON objects or lack a field, duplicate ids, and, where `leakage` is `fail`, evaluation
    rows that also stand among the training rows or articles, or in what models are told. `drop` leaves those training
    rows and articles out, and refuses the last too, of which nothing can be left out; `warn` leaves all in.
    """
    p = suite.params
    if lacking := [key for key in NEEDED if key not in p]:
        raise UserError(
            [f"suite {suite.name}: {key} is missing; see conf/suite/ticket_routing.yaml" for key in lacking]
        )
    if no_texts := _no_texts(p):
        raise UserError(no_texts)
    folder = suite_folder(p)
    if not folder.is_dir():
        raise UserError(f"suite {suite.name}: no folder {p['folder']!r} here or in {resource('suites')}")
    if strays := _strays(folder, p):
        raise UserError(strays)
    mistakes: list[str] = []
    message, reply = p["message_field"], p["reply_field"]
    train = _read_jsonl(folder / p["train_file"], ("id", message, reply), mistakes)
    held = _read_jsonl(folder / p["eval_file"], ("id", message), mistakes) if p["eval_file"] else []
    articles = (
        _read_jsonl(folder / p["knowledge_file"], ("id", "title", "text"), mistakes) if p["knowledge_file"] else []
    )
    text = _read_text(folder / p["instructions_file"], mistakes)
    output = _read_text(folder / p["output_file"], mistakes) if p.get("output_file") else ""
    code = _code(folder, p, mistakes)
    mistakes += [
        f"suite.{limit}={p[limit]!r}: must be a whole number above 0, or null for all rows; profile.{limit} sets it too"
        for limit in ("train_rows", "eval_rows")
        if p[limit] is not None and (type(p[limit]) is not int or p[limit] < 1)
    ]
    if type(tokens := p["max_new_tokens"]) is not int or tokens < 1:
        mistakes.append(f"suite.max_new_tokens={tokens!r}: must be a whole number, 1 or more")
    if type(share := p.get("train_share", 1.0)) not in (int, float) or not 0 < share <= 1:
        mistakes.append(f"suite.train_share={share!r}: must be a number above 0 and up to 1")
    mode = p.get("leakage", "fail")
    if mode not in MODES:
        mistakes.append(f"leakage={mode!r}: choose one of {', '.join(MODES)}")
    shelf = tuple(Article(a["id"], a["title"], a["text"]) for a in articles)
    told = {p["instructions_file"]: text, "suite.system": p["system"]}
    found = overlaps(held, train, shelf, message, reply, told)
    if mode != "warn":
        mistakes += leaks([o for o in found if mode == "fail" or o.source == INSTRUCTIONS], folder, p)
    if mistakes:
        raise UserError(mistakes)
    if mode == "drop":
        train, shelf = _without(held, train, shelf, message, reply)
    limited = train[: p["train_rows"]]
    fit, validation = parted(limited)
    if not fit or not validation:
        raise UserError(
            f"{folder / p['train_file']}: {plural(len(limited), 'row')} of too few groups to set a fifth of them apart "
            "for validation; give 20 groups or more, or raise suite.train_rows"
        )
    fit = fit[: max(1, round(share * len(fit)))]
    evaluation = held[: p["eval_rows"]]
    pairs = [[(row[message], row[reply]) for row in rows] for rows in (fit, validation)]
    return SuiteData(
        name=suite.name,
        folder=folder,
        train=tuple(fit),
        validation=tuple(validation),
        evaluation=tuple(evaluation),
        knowledge=shelf,
        instructions=text,
        system=p["system"],
        asked=p.get("asked", "Message"),
        message_field=message,
        reply_field=reply,
        max_new_tokens=p["max_new_tokens"],
        evaluation_limit=p["eval_rows"],
        output=output,
        overlaps=tuple(found),
        leakage=mode,
        training_digest=_digest(pairs, plain(shelf), p["system"], p.get("asked")),
        evaluation_digest=_digest(
            evaluation, articles, p["task"], code, p["max_new_tokens"], output, *(() if held else (p["eval_rows"],))
        ),
        scoring_digest=_digest(p["task"], code, p["max_new_tokens"]),
        told=told,
        task=p["task"],
    )
