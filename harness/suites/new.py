"""Makes a suite from a table of rows: its folder, its configuration and a sweep of it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError
from harness.escaping import config_text
from harness.files import cannot_write, parse, unread
from harness.leakage import normalised
from harness.ledger import write_text
from harness.resources import resource
from harness.suite import VALIDATION_SHARE, hashed, json_lines, parted
from harness.suites.shape import (
    TO_FILL,
    are_free,
    are_labels,
    few_groups,
    folded,
    in_groups,
    misspelt,
    uneven,
    unfilled,
    unlearnt,
)
from harness.wording import plural

EVALUATION_SHARE = 0.3
MARKS = {".csv": ",", ".tsv": "\t"}
TOKENS_AT_MOST, SPARE = 1024, 16
SYSTEM = "You are a helpful assistant."
TWINS = 5  # rows of a line
ONE_TURN = (
    "a chat of the turns {roles}; a suite asks one message: keep a user turn and the assistant's reply to it, with "
    "what came before written into the message"
)
SHAREGPT = {"human": "user", "gpt": "assistant"}
REFERENCES = "references"  # the name of a column of replies that are lists of right ones
GUIDE = (
    f"{TO_FILL} say here, as to a new colleague, what a good answer looks like. prompt_rag tells the model this text.\n"
)
SUITE = """\
# {what}
name: {name}
folder: {name}
task: {name}
task_file: task.yaml
train_file: train.jsonl
eval_file: eval.jsonl
knowledge_file: null              # or kb.jsonl: articles with id, title and text, for retrieval
instructions_file: instructions.md
output_file: null                 # a JSON Schema or Lark grammar of an answer, for engine.constrained=true
system: {system}
asked: Message                    # what a message is called where facts stand before it
message_field: message
reply_field: reply
primary: {primary}
max_new_tokens: {tokens}
leakage: ${{leakage}}
train_rows: ${{profile.train_rows}}
eval_rows: ${{profile.eval_rows}}
"""
SWEEP = """\
# @package _global_
# The 3 x 5 grid on {name}. Narrow it on the command line: quantization=int8,gptq
sweep_name: {name}
hydra:
  sweeper:
    params:
      suite: {name}
      adaptation: prompt_rag,lora,full_ft
      quantization: fp16,int8,gptq,awq,dynamic
"""
TASK = """\
# The lm-eval task of this suite: `lm-eval run --include_path suites/{name} --tasks {name}` knows it too.
task: {name}
custom_dataset: !function scorers.evaluation
test_split: test
output_type: generate_until
doc_to_text: "{{{{message}}}}"
doc_to_target: "{{{{reply}}}}"
process_results: !function scorers.process_results
generation_kwargs:
  until: []
  do_sample: false
  max_gen_toks: {tokens}
metric_list:
{metrics}
metadata:
  version: 1
"""
SCORES = {
    "text": {"exact": "the words of the reference, case and punctuation apart", "word_f1": "F1 of the shared words"},
    "labels": {
        "accuracy": "the label wanted", "macro_f1": "the mean F1 of the labels", "parseable": "any label at all",
    },
    "structured": {
        "exact": "the JSON of the reference, spaces and the order of keys apart",
        "value_f1": "F1 of the values at their paths", "parses": "a JSON object or list, and nothing else",
    },
}  # fmt: skip


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
        raise UserError([f"{places[0]}: {told}{_such(places)}" for told, places in wrong.items()])
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


def _such(places: Sequence[Any]) -> str:
    return f" (such rows: {len(places):,})" if len(places) > 1 else ""


def columns_of(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The columns with a name that any row has."""
    return list(dict.fromkeys(c for _, row in rows for c in row if c))


def shaped(rows: Sequence[tuple[str, dict[str, Any]]], source: Path, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows as suites hold them: id, group, case where there is one, message, reply. `names` says which column is what.

    Without a group column, rows of the same message are one group. A reply that is an object becomes JSON; of a list in
    a column `references` the first is the reply, and all are kept. Raises `UserError` with a line a mistake: columns
    that are not there or named for two things, empty cells, ids given twice, one message with several replies. Messages
    that are one but for case and marks are of one group, and so are groups that are one but for how they are written
    (`folded`).
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
    seen: dict[str, str] = {}
    replies: dict[str, tuple[str, str, dict[str, Any]]] = {}
    groups: dict[str, str] = {}
    written: dict[str, str] = {}
    for number, (where, row) in enumerate(rows, start=1):
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
        key = _text(row.get(names["id"])) or f"row-{number:05d}"
        if key in seen:
            mistakes.append(f"{where}: id {key!r} stands in {seen[key].rpartition(', ')[2]} too; make ids unique")
        seen.setdefault(key, where)
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


def split(rows: Sequence[dict[str, Any]], share: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and evaluation rows, whole groups on one side, by the hash of the group: the same on every machine and
    when rows are added. Each side is in the order of a hash of the ids, since profiles and learning curves take the
    first rows. Of the training rows, a fifth of the groups is set apart for validation when they are read."""

    def held(row: Mapping[str, Any]) -> bool:
        return hashed(f"evaluation {row['group']}") < share

    ordered = sorted(rows, key=lambda r: (hashed(r["id"]), r["id"]))
    return [r for r in ordered if not held(r)], [r for r in ordered if held(r)]


def new(name: str, source: Path, names: Mapping[str, str], share: float, system: str | None, root: Path) -> list[str]:
    """Makes a suite below `root`; returns what to tell the user. Nothing is written when anything is wrong. `system` is
    what models are told (None: what all chats of the rows begin with, or `SYSTEM`)."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"suite name {name!r}: use lower-case letters, digits and _, starting with a letter")
    folder, config, sweep = (
        root / "suites" / name,
        root / "conf/suite" / f"{name}.yaml",
        root / "conf/sweep" / f"{name}.yaml",
    )
    if (read := yaml.safe_load(name)) != name or name in ("inf", "nan"):  # the latter are numbers to Hydra alone
        raise UserError(f"suite name {name!r}: is {read} to configurations, not a text; choose another, as my_{name}")
    if taken := [str(p) for p in (folder, config, sweep) if p.exists()]:
        are, them = ("is", "it") if len(taken) == 1 else ("are", "them")
        raise UserError(f"{', '.join(taken)}: {are} there already; choose another name, or delete {them}")
    for path in (folder, config, sweep):
        if reason := cannot_write(path.parent):
            raise UserError(f"{path}: cannot be written ({reason}); move that away, or work in another folder")
    if not 0 < share < 1:
        raise UserError(f"--eval-share {share}: give a share between 0 and 1")
    table, systems = unchatted(read_table(source), names)
    every = shaped(table, source, names)
    unused = [repr(c) for c in columns_of(table) if c not in names.values()]
    rows = list({(normalised(r["message"]), r["reply"]): r for r in reversed(every)}.values())[::-1]
    repeated = len(every) - len(rows)
    train, held = split(rows, share)
    fit, validation = parted(train)
    groups = len({r["group"] for r in rows})
    for side, too_few in (("evaluation", held), ("training", fit), ("validation", validation)):
        if not too_few:
            mend = "raise" if side == "evaluation" else "lower"
            raise UserError(
                f"{source}: --eval-share {share:g} of {plural(groups, 'group')} leaves no {side} rows; {mend} it, or "
                "give 20 groups or more by a finer --group column"
            )
    replies = Counter(r["reply"] for r in rows)
    places = [where for where, _ in table]
    said = [(where, row["reply"]) for where, row in zip(places, every, strict=True)]
    kind, wrong, doubts = _kind(said, are_labels(replies) and not any(REFERENCES in row for row in rows))
    if wrong:
        raise UserError(wrong)
    due = (1 - share) * (1 - VALIDATION_SHARE), (1 - share) * VALIDATION_SHARE, share
    parts = {"training": fit, "validation": validation, "evaluation": held}
    doubts += [*few_groups(held), *uneven(parts, dict(zip(parts, due, strict=True))), *_twins(places, every)]
    doubts += unfilled([(where, row["group"]) for where, row in zip(places, every, strict=True)], "group")
    if kind == "labels":
        ids = {r["id"] for r in held}
        asked = [pair for pair, row in zip(said, every, strict=True) if row["id"] in ids]
        doubts += unlearnt({r["reply"] for r in train}, asked)
    if system is None and len(systems) == 1 and any(systems):
        (system,) = systems
    elif any(systems):
        instead = f"{SYSTEM!r}, as the chats differ in theirs" if system is None else "--system"
        doubts.append(f"{source}: its chats' system turns are left out; models are told {instead}")
    told_system = config_text(SYSTEM if system is None else system)
    primary = "word_f1" if kind == "text" and are_free(replies) else next(iter(SCORES[kind]))
    longest = max(rows, key=lambda r: len(r["reply"].encode()))
    needed = len(longest["reply"].encode()) + SPARE  # a token may hold one byte, as of digits and of Korean
    tokens = min(TOKENS_AT_MOST, needed)
    higher = "aggregation: mean, higher_is_better: true"
    metrics = [
        f"  - {{metric: {s}, "
        + (higher if s != "macro_f1" else higher.replace("mean", "!function scorers.macro_f1"))
        + "}"
        for s in SCORES[kind]
    ]
    card = (resource("suites") / "_template/card.md").read_text(encoding="utf-8")
    sides = f"{in_groups(train, 'training')} and {in_groups(held, 'evaluation')}"
    counts = f"{sides} from {source.name}, split by group."
    told = "\n".join(f"- `{s}`: {what}" for s, what in SCORES[kind].items())
    files = {
        folder / "train.jsonl": _jsonl(train), folder / "eval.jsonl": _jsonl(held),
        folder / "scorers.py": (resource("suites") / f"_template/{kind}.py").read_text(encoding="utf-8"),
        folder / "task.yaml": TASK.format(name=name, tokens=tokens, metrics="\n".join(metrics)),
        folder / "instructions.md": GUIDE + _guide(kind, replies, fit),
        folder / "card.md": card.replace("NAME", name).replace("COUNTS", counts).replace("SCORES", told),
        config: SUITE.format(
            what=f"TO FILL: what {name} measures", name=name,
            system=yaml.dump(told_system, default_style='"', allow_unicode=True, width=math.inf).strip(),
            primary=primary, tokens=tokens,
        ),
        sweep: SWEEP.format(name=name),
    }  # fmt: skip
    for path, text in files.items():
        write_text(path, text)
    different = "one reply alone" if len(replies) == 1 else f"{len(replies)} different replies"
    room = f"max_new_tokens: {tokens} in {config}: "
    if needed > tokens:
        room += f"the most that is set; the longest reply (row {longest['id']!r}) may need {needed}: raise it if so"
    else:
        room += f"a token a byte of the longest reply (row {longest['id']!r}) and {SPARE}; most models need a fraction "
        room += "of that: lower it for speed"
    return [
        f"{folder}: {counts}" + (f" {repeated} that repeat a message were left out." if repeated else ""),
        *([f"columns left out: {', '.join(unused)}; write into the message what an answer needs"] if unused else []),
        f"scores: {', '.join(SCORES[kind])} ({kind}; {different}); scorers.py holds them",
        f"primary: {primary} in {config}: the score that decides"
        + ("; replies are free text, of which hardly any is met word for word" if primary == "word_f1" else ""),
        room,
        *(f"warning: {doubt}" for doubt in doubts),
        f"next: write {folder / 'instructions.md'} and {folder / 'card.md'}, then",
        f"  python -m harness.suites check {name}",
        f"  python -m harness +sweep={name}",
    ]


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def _is_json(reply: str) -> bool:
    try:
        return isinstance(parse(reply), dict | list)
    except ValueError:
        return False


def _kind(said: Sequence[tuple[str, str]], are_few: bool) -> tuple[str, list[str], list[str]]:
    """What replies, given with where they stand, are scored as, and the mistakes and doubts about that. A reply that
    begins as JSON, as most are, was meant to be such."""
    doubts = unfilled(said, "reply")
    odd = [(where, reply) for where, reply in said if not _is_json(reply)]
    if not odd:
        if all(isinstance(found := parse(reply), list) and {*map(type, found)} == {str} for _, reply in said):
            doubts.append(
                f"{said[0][0]}: reply is a list of texts, as all are, and taken as one answer, in JSON; alternatives "
                f"belong into a column `{REFERENCES}` of a .jsonl (--reply {REFERENCES})"
            )
        return "structured", _no_numbers(said), doubts
    if 2 * len(odd) <= len(said):
        as_most = f"no JSON, as those of {plural(len(said) - len(odd), 'other row')} are"
        if broken := [where for where, reply in odd if reply[0] in "{["]:
            return "structured", [f"{where}: reply begins as JSON and is {as_most}; mend it" for where in broken], []
        doubts.append(f"{odd[0][0]}: reply is {as_most}, so all are compared as text{_such(odd)}")
    return ("labels", misspelt(said), doubts) if are_few else ("text", [], doubts)


def _no_numbers(said: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each row whose reply, of JSON, holds NaN or Infinity, which Python alone reads."""
    told = []
    for where, reply in said:
        found: list[str] = []
        json.loads(reply, parse_constant=found.append)
        told += [f"{where}: reply holds {name}, which is no JSON; write null or a number" for name in found[:1]]
    return told


def _twins(places: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for the rows whose message is that of an earlier one but for case and marks, with another reply."""
    first: dict[str, tuple[str, str]] = {}
    pairs = []
    for where, row in zip(places, rows, strict=True):
        reply, other = first.setdefault(normalised(row["message"]), (row["reply"], where))
        if reply != row["reply"]:
            pairs.append(f"{where} ({other.rpartition(', ')[2]})")
    told = f"{', '.join(pairs[:TWINS])}{', ...' if len(pairs) > TWINS else ''}"
    return [f"{told}: the message of another row but for case and marks, with another reply; both are kept, in one "
            "group: if they mean the same, keep the reply that is right"] if pairs else []  # fmt: skip


def _guide(kind: str, replies: Counter[str], fit: Sequence[Mapping[str, Any]]) -> str:
    """What the instructions say of the form of an answer, with an example of the rows to train on."""
    if kind == "labels":
        listed = "".join(f"- {r}\n" for r in sorted(replies))
        return f"\nAnswer with one of these labels alone, nothing else:\n\n{listed}"
    if kind == "structured":
        return f"\nAnswer with JSON alone, such as:\n\n{min((r['reply'] for r in fit), key=len)}\n"
    return ""
