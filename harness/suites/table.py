"""Reads a table of rows, or of chats, as the rows of a suite, with all that is wrong told by where it stands."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import unread
from harness.leakage import normalised
from harness.rows import REFERENCES, rights
from harness.suite import json_lines
from harness.suites.shape import folded

MARKS = {".csv": ",", ".tsv": "\t"}
ONE_TURN = (
    "a chat of the turns {roles}; a suite asks one message: keep a user turn and the assistant's reply to it, with "
    "what came before written into the message"
)
SHAREGPT = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file, each with where it stands, the columns that nothing was asked of, the system turns of its
    chats, and the messages that stand in the suite already."""

    rows: tuple[tuple[str, dict[str, Any]], ...]
    unused: tuple[str, ...]
    systems: frozenset[str]
    standing: frozenset[str]

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The rows without those that repeat a message and its reply, whose other right answers are kept: of such the
        one that stands in the suite, or else the first."""
        pairs: dict[tuple[str, str], dict[str, Any]] = {}
        for _, row in sorted(self.rows, key=lambda pair: pair[1]["message"] not in self.standing):
            key = normalised(row["message"]), row["reply"]
            first = pairs.setdefault(key, row)
            if REFERENCES in row:
                every = rights(first, "reply") + rights(row, "reply")
                pairs[key] = {**first, REFERENCES: list(dict.fromkeys(every))}
        return list(pairs.values())

    @property
    def said(self) -> list[tuple[str, str]]:
        """The right answers, each with where it stands."""
        return [(where, reply) for where, row in self.rows for reply in rights(row, "reply")]


def read(
    source: Path, names: Mapping[str, str], called: str = "row", standing: Sequence[Mapping[str, Any]] = ()
) -> Table:
    """The rows of a file as suites hold them. `names` says which column is what; a row without an id is `called` by a
    hash of its message. Ids, and how groups are written, stay those of rows that stand in the suite already."""
    table, systems = unchatted(read_table(source), names)
    rows = shaped(table, source, names, called, standing)
    unused = [c for c in columns_of(table) if c not in names.values()]
    placed = tuple(zip([where for where, _ in table], rows, strict=True))
    return Table(placed, tuple(unused), frozenset(systems), frozenset(str(row.get("message")) for row in standing))


def read_table(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a CSV or JSONL file, each with where it stands: by its number as a spreadsheet has it, and its line
    where that is another. Raises `UserError` for what cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(unread(path, error)) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        told = unread(path, error).replace(f"{path}: cannot", f"{path}, line {line}: cannot", 1)
        raise UserError(told) from error
    if mark := MARKS.get(path.suffix.lower()):
        return _table(path, text, mark)
    mistakes: list[str] = []
    rows = [(f"{path}, row {number}", row) for number, row in json_lines(path, text, mistakes)]
    if mistakes and (not rows or text.lstrip().startswith("[")):
        first = mistakes[0].removeprefix(f"{path}, ").rpartition("; ")[0]
        raise UserError(
            f"{path}: no line of it is a JSON object ({first}); a .jsonl has one a line, and a table with a header "
            "is to be named .csv or .tsv"
        )
    if mistakes:
        raise UserError(mistakes)
    return rows


def _table(path: Path, text: str, mark: str) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a table whose cells a mark parts, or where that leaves its header one column, another mark."""
    csv.field_size_limit(max(len(text), csv.field_size_limit()))  # a cell may be as long as its file
    if named := re.match(r"sep=(.)\r?\n", text):  # which spreadsheets write and don't show
        mark, text = named[1], text[named.end() :]
    first = next(filter(str.strip, io.StringIO(text)), "")

    def columns(by: str) -> int:
        return len(next(csv.reader([first], delimiter=by)))

    if first and columns(mark) == 1:
        mark = max((mark, ",", ";", "\t"), key=columns)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    header: list[str] = []
    rows: list[tuple[str, dict[Any, Any]]] = []
    line = before = 1 + bool(named)
    try:
        for number, cells in enumerate(reader, start=1):
            where = f"{path}, row {number}" + (f" (line {line})" if line != number else "")
            line = reader.line_num + before
            if not any(map(str.strip, cells)):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if twice := [c for c, n in Counter(header).items() if c and n > 1]:
                    raise UserError([f"{where}: column {c!r} stands twice; rename or delete one" for c in twice])
            else:
                more = {None: cells[len(header) :]} if len(cells) > len(header) else {}
                rows.append((where, {**dict(zip(header, cells, strict=False)), **more}))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: {error}; close the quotes of the row that begins there, and double those inside"
        ) from error
    return rows


def unchatted(
    table: Sequence[tuple[str, dict[str, Any]]], names: Mapping[str, str]
) -> tuple[list[tuple[str, dict[str, Any]]], set[str]]:
    """Rows whose chats, `{"messages": [{"role": "user", "content": ...}, ...]}` or ShareGPT's `{"conversations":
    [{"from": "human", "value": ...}, ...]}`, became a message and its reply, and the system turns that stood before
    them (one of no words where there was none). Raises `UserError` with a line for each way in which chats are not of
    one turn of text."""
    made: list[tuple[str, dict[str, Any]]] = []
    systems, wrong = set(), dict[str, list[str]]()
    for where, row in table:
        turns = row.get("messages", row.get("conversations"))
        if not isinstance(turns, list) or names["message"] in row:
            made.append((where, row))
            continue
        said = [_turn(t) if isinstance(t, dict) else (None, None) for t in turns]
        opens = bool(said) and said[0][0] == "system"
        systems.add(_text(said.pop(0)[1]) if opens else "")
        roles = ", ".join(str(role) for role, _ in said) or "none"
        if roles != "user, assistant":
            wrong.setdefault(ONE_TURN.format(roles=roles), []).append(where)
        elif not all(isinstance(text, str) for _, text in said):
            wrong.setdefault("a chat of more than text; leave out what is none in its `content`", []).append(where)
        else:
            rest = {k: v for k, v in row.items() if k not in ("messages", "conversations")}
            made.append((where, {**rest, names["message"]: said[0][1], names["reply"]: said[1][1]}))
    if wrong:
        raise UserError([f"{places[0]}: {told}{such(places)}" for told, places in wrong.items()])
    return made, systems


def _turn(turn: Mapping[str, Any]) -> tuple[str, Any]:
    """Who speaks in a turn, by OpenAI's names, and what is said."""
    role = str(turn.get("role", turn.get("from")))
    return SHAREGPT.get(role, role), _joined(turn.get("content", turn.get("value")))


def _joined(content: Any) -> Any:
    """What a turn says, the parts of one that is a list of texts as lines; as it came where it is more than text."""
    if not isinstance(content, list):
        return content
    texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(texts) if len(texts) == len(content) else content


def such(places: Sequence[Any]) -> str:
    """How many rows the line about the first of some places speaks of."""
    return f" (such rows: {len(places):,})" if len(places) > 1 else ""


def columns_of(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The columns with a name that any row has."""
    return list(dict.fromkeys(c for _, row in rows for c in row if c))


def shaped(
    rows: Sequence[tuple[str, dict[str, Any]]], source: Path, names: Mapping[str, str], called: str = "row",
    standing: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows as suites hold them: id, group, case where there is one, message, reply. `names` says which column is what.

    Without a group column, rows of the same message are one group. A reply that is an object becomes JSON; of a list in
    a column `references` the first is the reply, and all are kept. Raises `UserError` with a line a mistake: columns
    that are not there or named for two things, empty cells, an id of two messages, one message with several replies.
    Messages that are one but for case and marks are of one group, and so are groups that are one but for how they are
    written (`folded`).
    """
    if not rows:
        raise UserError(f"{source}: no rows; a suite needs some hundred")
    if names["message"] == names["reply"]:
        raise UserError(f"--message and --reply both name the column {names['reply']!r}; give each its own")
    columns = columns_of(rows)
    unused = [c for c in columns if c not in names.values()]
    absent = [
        f"{source}: no column {name!r}; name the one that holds the {what} with --{what} (there is "
        f"{', '.join(map(repr, columns))})"
        for what, name in names.items()
        if name not in columns and (what in ("message", "reply") or name != what)
    ]
    if absent:
        raise UserError(absent)
    mistakes: list[str] = []
    made: list[dict[str, Any]] = []
    seen: dict[str, tuple[str, str]] = {}
    replies: dict[str, tuple[str, str, dict[str, Any]]] = {}
    groups: dict[str, str] = {}
    ids = {str(row.get("message")): str(row["id"]) for row in standing if row.get("id")}
    written = {folded(str(row["group"])): str(row["group"]) for row in standing if row.get("group")}
    for where, row in rows:
        message, said = _text(row.get(names["message"])), row.get(names["reply"])
        several = said if names["reply"] == REFERENCES and isinstance(said, list) else [said]
        right = list(filter(None, map(_text, several)))
        reply = right[0] if right else ""
        if isinstance(row.get(names["message"]), list | dict):
            mistakes.append(f"{where}: message is a list or an object; give one text a row")
        for k, v in (("message", message), ("reply", reply)):
            if names[k] not in row:
                mistakes.append(f"{where}: has no {names[k]!r}; fill it in or delete the row")
            elif not v:
                mistakes.append(f"{where}: {k} is empty; fill it in or delete the row")
        if names["group"] in columns and not _text(row.get(names["group"])):
            mistakes.append(f"{where}: group is empty; fill it in, or leave the column out")
        if None in row:
            mistakes.append(f"{where}: more cells than the header has columns; quote cells that hold commas")
        default = ids.get(message) or f"{called}-{hashlib.sha256(message.encode()).hexdigest()[:12]}"
        key = (_text(row.get(names["id"])) if "id" in names else "") or default
        asked_of, at = seen.setdefault(key, (message, where))
        if asked_of != message:
            mistakes.append(f"{where}: id {key!r} stands in {at.rpartition(', ')[2]} too; make ids unique")
        first, other, of = replies.setdefault(message, (reply, where, row))
        if first != reply:
            apart = ", ".join(repr(c) for c in unused if row.get(c) != of.get(c))
            keep = f"; where {apart} tells them apart, write it into the message" if apart else ""
            told = f"the message of {other.rpartition(', ')[2]} with another reply; keep the one that is right{keep}"
            mistakes.append(f"{where}: {told}")
        asked = normalised(message)
        group = _text(row.get(names["group"])) or hashlib.sha256(asked.encode()).hexdigest()[:12]
        group = written.setdefault(folded(group), group)
        entry = dict[str, Any](id=key, group=groups.setdefault(asked, group), message=message, reply=reply)
        if len(right) > 1:
            entry[REFERENCES] = right
        if case := _text(row.get(names["case"])):
            entry["case"] = case
        made.append(entry)
    if mistakes:
        raise UserError(mistakes)
    return made


def _text(value: Any) -> str:
    """A cell as text without spaces around it: what is no text as JSON without spaces, as models are asked to write
    it: `true`, not Python's `True`. A number that is none is an empty cell, as pandas writes those."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, list | dict | bool | int | float):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return str(value).strip()
