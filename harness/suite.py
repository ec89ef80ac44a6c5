"""Reads a suite folder: rows, knowledge base and instructions, with every mistake told at once.

`train.jsonl` and `eval.jsonl` hold one JSON object a line; `kb.jsonl` holds articles; the instructions are
plain text. A fifth of the training groups is held out as the validation split, by the hash of the group, so
the split is the same on every machine and a group never stands on both sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.resources import resource
from harness.types import Article, Component, SuiteData

VALIDATION_SHARE = 0.2


def suite_folder(params: Mapping[str, Any]) -> Path:
    """The suite's folder: as given when that exists, else below the packaged `suites/`."""
    given = Path(params["folder"])
    return given.absolute() if given.is_dir() else resource("suites") / given


def _read_text(path: Path, mistakes: list[str]) -> str:
    """A file's text, or nothing and a mistake."""
    if not path.is_file():
        mistakes.append(f"{path}: missing; a suite needs this file")
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8")
        return ""


def _read_jsonl(path: Path, needed: tuple[str, ...], mistakes: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(_read_text(path, mistakes).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, row {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            mistakes.append(f"{where}: not JSON ({error.msg} at column {error.colno}); write one object a line")
            continue
        if not isinstance(row, dict):
            mistakes.append(f"{where}: a {type(row).__name__}, not an object; write {{...}}")
            continue
        lacking = [key for key in needed if not isinstance(row.get(key), str) or not row[key].strip()]
        if lacking:
            mistakes.append(f"{where}: {', '.join(lacking)} missing, empty or not text; fill in each row")
            continue
        if row["id"] in seen:
            mistakes.append(f"{where}: id {row['id']!r} stands in row {seen[row['id']]} too; make ids unique")
        seen.setdefault(row["id"], number)
        rows.append(row)
    if not rows and not any(str(path) in m for m in mistakes):
        mistakes.append(f"{path}: empty; at least one row is needed")
    return rows


def _overlaps(train: list[dict[str, Any]], held: list[dict[str, Any]], field: str, where: Path) -> list[str]:
    """Evaluation rows that also stand among the training rows: same message, or same group."""
    said = {" ".join(r[field].lower().split()): r["id"] for r in train}
    groups = {r["group"]: r["id"] for r in train if r.get("group")}
    found = []
    for row in held:
        same = said.get(" ".join(row[field].lower().split()))
        if same:
            found.append(f"{where}, row {row['id']!r}: its {field} is that of training row {same!r}; remove one")
        elif row.get("group") in groups:
            found.append(
                f"{where}, row {row['id']!r}: group {row['group']!r} is also that of training row "
                f"{groups[row['group']]!r}; keep a group on one side"
            )
    return found


def _is_validation(row: Mapping[str, Any]) -> bool:
    name = str(row.get("group") or row["id"])
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8 < VALIDATION_SHARE


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def load(suite: Component) -> SuiteData:
    """The rows of a suite, limited to its `train_rows` and `eval_rows` (None: all).

    Raises `UserError` with one line a mistake: missing, empty or unreadable files, rows that are no JSON
    objects or lack a field, duplicate ids, evaluation rows that also stand among the training rows.
    """
    p = suite.params
    folder = suite_folder(p)
    if not folder.is_dir():
        raise UserError(f"suite {suite.name}: no folder {p['folder']!r} here or in {resource('suites')}")
    mistakes: list[str] = []
    message, reply = p["message_field"], p["reply_field"]
    train = _read_jsonl(folder / p["train_file"], ("id", message, reply), mistakes)
    held = _read_jsonl(folder / p["eval_file"], ("id", message), mistakes)
    articles = (
        _read_jsonl(folder / p["knowledge_file"], ("id", "title", "text"), mistakes) if p["knowledge_file"] else []
    )
    text = _read_text(folder / p["instructions_file"], mistakes)
    files = [*sorted(folder.glob("*.py")), folder / p["task_file"]]
    code = [(file.name, _read_text(file, mistakes)) for file in files]
    mistakes += [
        f"suite.{limit}={p[limit]!r}: must be a whole number above 0, or null for all rows"
        for limit in ("train_rows", "eval_rows")
        if p[limit] is not None and (type(p[limit]) is not int or p[limit] < 1)
    ]
    mistakes += _overlaps(train, held, message, folder / p["eval_file"])
    if mistakes:
        raise UserError(mistakes)
    limited = train[: p["train_rows"]]
    fit = [r for r in limited if not _is_validation(r)]
    validation = [r for r in limited if _is_validation(r)]
    if not fit or not validation:
        raise UserError(
            f"{folder / p['train_file']}: {len(limited)} rows hold too few groups to set a fifth of them apart for "
            "validation; give 20 groups or more, or raise suite.train_rows"
        )
    evaluation = held[: p["eval_rows"]]
    return SuiteData(
        name=suite.name,
        folder=folder,
        train=tuple(fit),
        validation=tuple(validation),
        evaluation=tuple(evaluation),
        knowledge=tuple(Article(a["id"], a["title"], a["text"]) for a in articles),
        instructions=text,
        system=p["system"],
        message_field=message,
        reply_field=reply,
        max_new_tokens=p["max_new_tokens"],
        training_digest=_digest(fit, validation, articles, text, p["system"], message, reply),
        evaluation_digest=_digest(evaluation, articles, code, p["max_new_tokens"]),
    )
