"""Makes a suite from a table of rows: its folder, its configuration and a sweep of it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError
from harness.escaping import config_text
from harness.files import cannot_write, parse
from harness.leakage import normalised, overlaps
from harness.ledger import write_text
from harness.resources import resource
from harness.rows import REFERENCES, rights
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
from harness.suites.table import Table, read, such
from harness.wording import plural

EVALUATION_SHARE = 0.3
TOKENS_AT_MOST, SPARE = 1024, 16
NAME_AT_MOST = 100  # characters: it names files, folders and parts of cells
SYSTEM = "You are a helpful assistant."
TWINS = 5  # rows of a line
GUIDE = (
    f"{TO_FILL} say here, as to a new colleague, what a good answer looks like. prompt_rag tells the model this text.\n"
)
Rows = Sequence[Mapping[str, Any]]
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


def in_order(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the order of a hash of their ids, since profiles and learning curves take the first."""
    return sorted(rows, key=lambda r: (hashed(r["id"]), r["id"]))


def split(rows: Sequence[dict[str, Any]], share: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and evaluation rows, whole groups on one side, by the hash of the group: the same on every machine and
    when rows are added. Of the training rows, a fifth of the groups is set apart for validation when they are read."""
    held = [hashed(f"evaluation {row['group']}") < share for row in rows]
    sides = [[row for row, h in zip(rows, held, strict=True) if h == side] for side in (False, True)]
    return in_order(sides[0]), in_order(sides[1])


def _places(name: str, root: Path, rows_only: bool) -> tuple[Path, Path, Path]:
    """The folder, configuration and sweep of a suite. Raises `UserError` for a name that cannot be one, and where they
    are there, or with `rows_only` are not, or cannot be written."""
    if not re.fullmatch(rf"[a-z][a-z0-9_]{{0,{NAME_AT_MOST - 1}}}", name):
        raise UserError(
            f"suite name {name!r}: use lower-case letters, digits and _, starting with a letter, {NAME_AT_MOST} at most"
        )
    if (read_as := yaml.safe_load(name)) != name or name in ("inf", "nan"):  # the latter are numbers to Hydra alone
        told = f"is {read_as} to configurations, not a text; choose another, as my_{name}"
        raise UserError(f"suite name {name!r}: {told}")
    folder, *others = root / "suites" / name, root / f"conf/suite/{name}.yaml", root / f"conf/sweep/{name}.yaml"
    if rows_only and not folder.is_dir():
        raise UserError(f"{folder}: is not there; make the suite first, without --rows-only")
    if not rows_only and (taken := [str(path) for path in (folder, *others) if path.exists()]):
        are, them = ("is", "it") if len(taken) == 1 else ("are", "them")
        or_rows = ", or have --rows-only write the rows alone" if folder.is_dir() else ""
        raise UserError(f"{', '.join(taken)}: {are} there already; choose another name, delete {them}{or_rows}")
    for path in [folder] if rows_only else [folder, *others]:
        if reason := cannot_write(path.parent):
            raise UserError(f"{path}: cannot be written ({reason}); move that away, or work in another folder")
    return folder, others[0], others[1]


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""


def _had(folder: Path) -> list[str] | None:
    """The labels that a suite lists already; None where it lists none, or its file holds something else."""
    had: Any = None
    with suppress(ValueError):
        had = parse(_text_of(folder / "labels.json"))
    return had if isinstance(had, list) and {*map(type, had)} <= {str} else None


def _moved(folder: Path, before: Sequence[Rows], after: Sequence[Rows]) -> list[str]:
    """A line where messages of a suite's training rows would become evaluation rows, or the other way round."""
    was, asked = ([{normalised(str(r.get("message"))): r for r in side} for side in s]
                  for s in (before, after))  # fmt: skip
    found = []
    for side, one, other in (("train", 0, 1), ("eval", 1, 0)):
        if moved := [row for said, row in was[one].items() if said in asked[other] and said not in was[other]]:
            group, others = str(moved[0].get("group")), {str(row.get("group")) for row in before[other]}
            twins = sorted(name for name in others - {group} if folded(name) == folded(group))
            mend = (f"groups {group!r} and {twins[0]!r} are one but for how they are written; make the suite under "
                    "another name" if twins else "give --group, --eval-share and --eval-from as before, or delete "
                    "the file")  # fmt: skip
            at = f"{folder / side}.jsonl, row {moved[0].get('id')!r}"
            found.append(f"{at}: would change sides ({len(moved)} such); {mend}")
    return found


def _left_behind(folder: Path, before: Sequence[Rows], after: Sequence[Rows], labels: Collection[str]) -> list[str]:
    """What is odd about new rows of a suite that is there: rows that another hand wrote, and labels that its
    instructions do not name, though they do others."""
    found = []
    kept = {_jsonl([row]) for rows in after for row in rows}
    if gone := [f"row {row.get('id')!r}" for rows in before for row in rows if _jsonl([row]) not in kept]:
        found.append(f"{folder}: gone or changed of what stood there: {plural(len(gone), 'row')} ({_some(gone)}); what "
                     "was mended by hand belongs into the table")  # fmt: skip
    guide = folder / "instructions.md"
    told = _text_of(guide).casefold()
    unnamed = sorted(label for label in labels if label.casefold() not in told)
    if 0 < len(unnamed) < len(labels):
        found.append(f"{guide}: does not name the label {', '.join(map(repr, unnamed))}; add it there")
    return found


def _sides(tables: Sequence[Table], share: float, source: Path) -> tuple[list[Any], list[Any]]:
    """The training and the evaluation rows. Raises `UserError` where a part of them would have none."""
    first, *own = (table.kept for table in tables)
    train, held = (in_order(first), in_order(own[0])) if own else split(first, share)
    fit, validation = parted(train)
    groups = plural(len({r["group"] for r in first}), "group")
    for side, too_few in (("evaluation", held), ("training", fit), ("validation", validation)):
        if not too_few:
            by = "" if own else f"--eval-share {share:g} of "
            mend = "" if own else "raise it, or " if side == "evaluation" else "lower it, or "
            raise UserError(
                f"{source}: {by}{groups} leaves no {side} rows; {mend}give 20 groups or more by a finer --group column"
            )
    return train, held


def _doubts(
    tables: Sequence[Table], train: Sequence[dict[str, Any]], held: Sequence[dict[str, Any]], share: float
) -> list[str]:
    """What is odd about rows: few groups, uneven parts, twins, words for empty cells, what stands on both sides."""
    fit, validation = parted(train)
    parts = {"training": fit, "validation": validation, "evaluation": held}
    fitted = 1.0 if len(tables) > 1 else 1 - share
    due = {"training": fitted * (1 - VALIDATION_SHARE), "validation": fitted * VALIDATION_SHARE}
    due |= {} if len(tables) > 1 else {"evaluation": share}
    found = [*few_groups(held), *uneven({side: parts[side] for side in due}, due)]
    for table in tables:
        found += _twins(table.rows)
        found += unfilled([(where, row["group"]) for where, row in table.rows], "group")
    there, here = ({row["id"]: where for where, row in table.rows[::-1]} for table in (tables[0], tables[-1]))
    if shared := [f"{here[o.row]} ({there[o.other]})" for o in overlaps(held, train, (), "message", "reply")]:
        found.append(f"{_some(shared)}: the message or the group of a training row ({len(shared)} such); remove one of "
                     "the two, or set leakage=drop")  # fmt: skip
    return found


def new(
    name: str, source: Path, names: Mapping[str, str], share: float, system: str | None, root: Path,
    held_source: Path | None = None, rows_only: bool = False,
) -> list[str]:  # fmt: skip
    """Makes a suite below `root`; returns what to tell the user. Nothing is written when anything is wrong. `system` is
    what models are told (None: what all chats of the rows begin with, or `SYSTEM`). The evaluation rows are a share of
    the groups, or those of a file of their own. `rows_only` writes the two row files of a suite that is there, and its
    `labels.json` where that lists labels."""
    folder, config, sweep = _places(name, root, rows_only)
    if held_source and share != EVALUATION_SHARE:
        raise UserError("--eval-share: the evaluation rows are those of --eval-from; leave one of the two out")
    if not 0 < share < 1:
        raise UserError(f"--eval-share {share}: give a share between 0 and 1")
    if [*names.values()].count(names["id"]) > 1:  # a column that is something else holds no ids
        names = {what: column for what, column in names.items() if what != "id"}
    before = [[row for _, row in json_lines(path, _text_of(path), [])]
              for path in (folder / "train.jsonl", folder / "eval.jsonl")]  # fmt: skip
    tables = [read(source, names, standing=before[0] if held_source else [*before[0], *before[1]])]
    tables += [read(held_source, names, "eval", before[1])] if held_source else []
    train, held = _sides(tables, share, source)
    rows, said = [row for t in tables for row in t.kept], [pair for t in tables for pair in t.said]
    replies = Counter(r["reply"] for r in rows)
    kind, wrong, doubts = _kind(said, are_labels(replies) and not any(REFERENCES in row for row in rows))
    if wrong := wrong or _moved(folder, before, (train, held)):
        raise UserError(wrong)
    doubts += _doubts(tables, train, held, share)
    if kind == "labels":
        ids = {r["id"] for r in held}
        asked = [(where, row["reply"]) for where, row in tables[-1].rows if row["id"] in ids]
        doubts += unlearnt({r["reply"] for r in train}, asked)
    sides = in_groups(train, "training"), in_groups(held, "evaluation")
    counts = f"{sides[0]} and {sides[1]} from {source.name}, split by group."
    if held_source:
        counts = f"{sides[0]} from {source.name} and {sides[1]} from {held_source.name}."
    repeated = sum(len(table.rows) for table in tables) - len(rows)
    unused = ", ".join(map(repr, dict.fromkeys(column for table in tables for column in table.unused)))
    told = [
        f"{folder}: {counts}" + (f" {repeated} that repeat a message were left out." if repeated else ""),
        *([f"columns left out: {unused}; write into the message what an answer needs"] if unused else []),
    ]
    files = {folder / "train.jsonl": _jsonl(train), folder / "eval.jsonl": _jsonl(held)}
    listed, trained, had = folder / "labels.json", sorted({row["reply"] for row in train}), _had(folder)
    ours = kind == "labels" or {str(row.get("reply")) for row in before[0]} <= {*(had or ())}
    if had is not None and ours if rows_only else kind == "labels":
        files[listed] = json.dumps(trained, ensure_ascii=False, indent=1) + "\n"
        if lost := sorted({*(had or ())} - {*trained}):
            doubts.append(f"{listed}: no longer holds {', '.join(map(repr, lost))}, which no training row has; add "
                          "such rows to the table, or write it there again")  # fmt: skip
    if not rows_only:
        systems = frozenset[str]().union(*(table.systems for table in tables))
        if system is None and len(systems) == 1 and any(systems):
            (system,) = systems
        elif any(systems):
            instead = f"{SYSTEM!r}, as the chats differ in theirs" if system is None else "--system"
            doubts.append(f"{source}: its chats' system turns are left out; models are told {instead}")
        primary = "word_f1" if kind == "text" and are_free(replies) else next(iter(SCORES[kind]))
        tokens, room = _room(rows, config)
        others = {"suite.yaml": config, "sweep.yaml": sweep}
        of_kind = _files(name, kind, primary, tokens, SYSTEM if system is None else system, counts)
        files |= {others.get(file, folder / file): text for file, text in of_kind.items()}
        files[folder / "instructions.md"] = GUIDE + _guide(kind, replies, parted(train)[0])
        different = "one reply alone" if len(replies) == 1 else f"{len(replies)} different replies"
        told += [
            f"scores: {', '.join(SCORES[kind])} ({kind}; {different}); scorers.py holds them",
            f"primary: {primary} in {config}: the score that decides"
            + ("; replies are free text, of which hardly any is met word for word" if primary == "word_f1" else ""),
            room,
        ]
    else:
        doubts += _left_behind(folder, before, (train, held), replies if kind == "labels" else ())
        needed, longest = _longest(rows)
        told.append(f"the longest reply (row {longest!r}) may need {needed} tokens: see max_new_tokens in {config}")
    for path, text in files.items():
        write_text(path, text)
    return [
        *told,
        *(f"warning: {doubt}" for doubt in doubts),
        "next:" if rows_only else f"next: write {folder / 'instructions.md'} and {folder / 'card.md'}, then",
        f"  python -m harness.suites check {name}",
        f"  python -m harness +sweep={name}",
    ]


def _longest(rows: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """How many tokens the longest right answer may need, and its row: a token may hold one byte, as of digits and of
    Korean."""
    sizes = [(len(reply.encode()) + SPARE, str(row["id"])) for row in rows for reply in rights(row, "reply")]
    return max(sizes, key=lambda pair: pair[0])


def _room(rows: Sequence[Mapping[str, Any]], config: Path) -> tuple[int, str]:
    """How many tokens an answer may have, and the line that tells why."""
    needed, longest = _longest(rows)
    tokens = min(TOKENS_AT_MOST, needed)
    room = f"max_new_tokens: {tokens} in {config}: "
    if needed > tokens:
        return tokens, (
            f"{room}the most that is set; the longest reply (row {longest!r}) may need {needed}: raise it if so"
        )
    return tokens, (
        f"{room}a token a byte of the longest reply (row {longest!r}) and {SPARE}; most models need a fraction of "
        "that: lower it for speed"
    )


def _files(name: str, kind: str, primary: str, tokens: int, system: str, counts: str) -> dict[str, str]:
    """The texts of a suite's files by their names in `suites/_template/`, its scorers' as `scorers.py`."""
    templates = resource("suites") / "_template"
    metrics = [
        f"  - {{metric: {s}, aggregation: {'!function scorers.macro_f1' if s == 'macro_f1' else 'mean'}, "
        "higher_is_better: true}"
        for s in SCORES[kind]
    ]
    values = {
        "NAME": name, "PRIMARY": primary, "TOKENS": str(tokens), "METRICS": "\n".join(metrics),
        "SCORES": "\n".join(f"- `{s}`: {what}" for s, what in SCORES[kind].items()), "COUNTS": counts,
        "SYSTEM": yaml.dump(config_text(system), default_style='"', allow_unicode=True, width=math.inf).strip(),
    }  # fmt: skip
    made = {"scorers.py": (templates / f"{kind}.py").read_text(encoding="utf-8")}
    for file in ("task.yaml", "card.md", "suite.yaml", "sweep.yaml"):
        text = (templates / file).read_text(encoding="utf-8")
        made[file] = re.sub("|".join(values), lambda found: values[found[0]], text)
    return made


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
        return "structured", _not_json(said), doubts
    if 2 * len(odd) <= len(said):
        others = {where for where, _ in said} - {where for where, _ in odd}
        as_most = f"no JSON, as those of {plural(len(others), 'other row')} are"
        if broken := [where for where, reply in odd if reply[0] in "{["]:
            return "structured", [f"{where}: reply begins as JSON and is {as_most}; mend it" for where in broken], []
        doubts.append(f"{odd[0][0]}: reply is {as_most}, so all are compared as text{such(odd)}")
    return ("labels", misspelt(said), doubts) if are_few else ("text", [], doubts)


def _not_json(said: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each row whose reply, of JSON, holds NaN or Infinity, which Python alone reads, or a key twice in one
    object, of which it reads the last."""
    told = []
    for where, reply in said:
        found: list[str] = []
        objects: list[list[tuple[str, Any]]] = []
        json.loads(reply, parse_constant=found.append, object_pairs_hook=objects.append)
        twice = [key for pairs in objects for key, n in Counter(key for key, _ in pairs).items() if n > 1]
        told += [f"{where}: reply holds {name}, which is no JSON; write null or a number" for name in found[:1]]
        told += [f"{where}: key {key!r} stands twice in an object of reply; keep one" for key in twice[:1]]
    return told


def _some(places: Sequence[str]) -> str:
    """The first of some places."""
    return ", ".join(places[:TWINS]) + ", ..." * (len(places) > TWINS)


def _twins(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A line for the rows whose message is that of an earlier one but for case and marks, with another reply."""
    first: dict[str, tuple[str, str]] = {}
    pairs = []
    for where, row in rows:
        reply, other = first.setdefault(normalised(row["message"]), (row["reply"], where))
        if reply != row["reply"]:
            pairs.append(f"{where} ({other.rpartition(', ')[2]})")
    return [f"{_some(pairs)}: the message of another row but for case and marks, with another reply; both are kept, in "
            "one group: if they mean the same, keep the reply that is right"] if pairs else []  # fmt: skip


def _guide(kind: str, replies: Counter[str], fit: Sequence[Mapping[str, Any]]) -> str:
    """What the instructions say of the form of an answer, with an example of the rows to train on."""
    if kind == "labels":
        listed = "".join(f"- {r}\n" for r in sorted(replies))
        return f"\nAnswer with one of these labels alone, nothing else:\n\n{listed}"
    if kind == "structured":
        return f"\nAnswer with JSON alone, such as:\n\n{min((r['reply'] for r in fit), key=len)}\n"
    return ""
