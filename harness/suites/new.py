"""Makes a suite from a table of rows: its folder, its configuration and a sweep of it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError
from harness.escaping import config_text
from harness.files import cannot_write, unread
from harness.leakage import normalised
from harness.ledger import write_text
from harness.resources import resource
from harness.suite import hashed, json_lines

EVALUATION_SHARE = 0.3
LABELS_AT_MOST, LABEL_LENGTH = 40, 40  # more or longer replies are texts
TOKENS_AT_MOST = 1024
GUIDE = "Say here, as to a new colleague, what a good answer looks like. prompt_rag tells the model this text.\n"
SUITE = """\
# {what}
name: {name}
_target_: ""
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
}  # fmt: skip


def read_table(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a CSV or JSONL file, each with where it stands. Raises `UserError` for what cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(unread(path, error)) from error
    if path.suffix.lower() in (".csv", ".tsv"):
        mark = "\t" if path.suffix.lower() == ".tsv" else ","
        csv.field_size_limit(max(len(text), csv.field_size_limit()))  # a cell may be as long as its file
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        try:
            if twice := [c for c, n in Counter(table.fieldnames or ()).items() if c.strip() and n > 1]:
                at = f"{path}, row {table.line_num}"
                raise UserError([f"{at}: column {c!r} stands twice; rename or delete one" for c in twice])
            return [(f"{path}, row {table.line_num}", dict(row)) for row in table]
        except csv.Error as error:
            raise UserError(
                f"{path}, row {table.line_num}: {error}; close the quotes, and double those inside"
            ) from error
    mistakes: list[str] = []
    rows = [(f"{path}, row {number}", row) for number, row in json_lines(path, text, mistakes)]
    if mistakes:
        raise UserError(mistakes)
    return rows


def shaped(rows: Sequence[tuple[str, dict[str, Any]]], source: Path, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows as suites hold them: id, group, case where there is one, message, reply. `names` says which column is what.

    Without a group column, rows of the same message are one group. A reply that is an object becomes JSON. Raises
    `UserError` with a line a mistake: columns that are not there, empty cells, ids given twice, one message with
    several replies.
    """
    if not rows:
        raise UserError(f"{source}: no rows; a suite needs some hundred")
    columns = list(dict.fromkeys(c for _, row in rows for c in row if c is not None))
    absent = [
        f"{source}: no column {name!r}; name the one that holds the {what} with --{what} (there is "
        f"{', '.join(map(str, columns))})"
        for what, name in names.items()
        if name not in columns and (what in ("message", "reply") or name != what)
    ]
    if absent:
        raise UserError(absent)
    mistakes: list[str] = []
    made: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    replies: dict[str, tuple[str, str]] = {}
    for number, (where, row) in enumerate(rows, start=1):
        message, reply = (_text(row.get(names[k])) for k in ("message", "reply"))
        if isinstance(row.get(names["message"]), list | dict):
            mistakes.append(f"{where}: message is a list or an object; give one text a row")
        for k, v in (("message", message), ("reply", reply)):
            if not v:
                mistakes.append(f"{where}: {k} is empty; fill it in or delete the row")
        if names["group"] in columns and not _text(row.get(names["group"])):
            mistakes.append(f"{where}: group is empty; fill it in, or leave the column out")
        if None in row:
            mistakes.append(f"{where}: more cells than the header has columns; quote cells that hold commas")
        key = _text(row.get(names["id"])) or f"row-{number:05d}"
        if key in seen:
            mistakes.append(f"{where}: id {key!r} stands in {seen[key].rpartition(', ')[2]} too; make ids unique")
        seen.setdefault(key, where)
        said = normalised(message)
        first, other = replies.setdefault(said, (reply, where))
        if first != reply:
            mistakes.append(
                f"{where}: the message of {other.rpartition(', ')[2]} with another reply; keep the one that is right"
            )
        group = _text(row.get(names["group"])) or hashlib.sha256(said.encode()).hexdigest()[:12]
        entry = {"id": key, "group": group, "message": message, "reply": reply}
        if case := _text(row.get(names["case"])):
            entry["case"] = case
        made.append(entry)
    if mistakes:
        raise UserError(mistakes)
    return made


def _text(value: Any) -> str:
    """A cell as text without spaces around it: objects and lists as JSON without spaces, as models are asked to write
    it."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return "" if value is None else str(value).strip()


def split(rows: Sequence[dict[str, Any]], share: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and evaluation rows, whole groups on one side, by the hash of the group: the same on every machine and
    when rows are added. Each side is in the order of a hash of the ids, since profiles and learning curves take the
    first rows. Of the training rows, a fifth of the groups is set apart for validation when they are read."""

    def held(row: Mapping[str, Any]) -> bool:
        return hashed(f"evaluation {row['group']}") < share

    ordered = sorted(rows, key=lambda r: (hashed(r["id"]), r["id"]))
    return [r for r in ordered if not held(r)], [r for r in ordered if held(r)]


def new(name: str, source: Path, names: Mapping[str, str], share: float, system: str, root: Path) -> list[str]:
    """Makes a suite below `root`; returns what to tell the user. Nothing is written when anything is wrong."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"suite name {name!r}: use lower-case letters, digits and _, starting with a letter")
    folder, config, sweep = (
        root / "suites" / name,
        root / "conf/suite" / f"{name}.yaml",
        root / "conf/sweep" / f"{name}.yaml",
    )
    if (read := yaml.safe_load(name)) != name or name in ("inf", "nan"):  # the latter are numbers to Hydra alone
        raise UserError(f"suite name {name!r}: is {read} to configurations, not a text; choose another, as my_{name}")
    if taken := [p for p in (folder, config, sweep) if p.exists()]:
        raise UserError(f"{taken[0]}: is there already; choose another name, or delete it")
    for path in (folder, config, sweep):
        if reason := cannot_write(path.parent):
            raise UserError(f"{path}: cannot be written ({reason}); move that away, or work in another folder")
    if not 0 < share < 1:
        raise UserError(f"--eval-share {share}: give a share between 0 and 1")
    every = shaped(read_table(source), source, names)
    rows = list({normalised(r["message"]): r for r in reversed(every)}.values())[::-1]
    repeated = len(every) - len(rows)
    train, held = split(rows, share)
    if not train or not held:
        raise UserError(
            f"{source}: {len({r['group'] for r in rows})} groups are too few to split; name a finer --group column"
        )
    replies = Counter(r["reply"] for r in rows)
    short = all("\n" not in r and len(r) <= LABEL_LENGTH for r in replies)
    kind = "labels" if short and len(replies) <= min(LABELS_AT_MOST, len(rows) / 5) else "text"
    needed = 16 + max(len(r["reply"].encode()) for r in rows)  # a token may hold one byte, as of digits and of Korean
    tokens = min(TOKENS_AT_MOST, needed)
    higher = "aggregation: mean, higher_is_better: true"
    metrics = [
        f"  - {{metric: {s}, "
        + (higher if s != "macro_f1" else higher.replace("mean", "!function scorers.macro_f1"))
        + "}"
        for s in SCORES[kind]
    ]
    card = (resource("suites") / "_template/card.md").read_text(encoding="utf-8")
    counts = f"{len(train)} training and {len(held)} evaluation rows from {source.name}, split by group."
    told = "\n".join(f"- `{s}`: {what}" for s, what in SCORES[kind].items())
    files = {
        folder / "train.jsonl": _jsonl(train), folder / "eval.jsonl": _jsonl(held),
        folder / "scorers.py": (resource("suites") / f"_template/{kind}.py").read_text(encoding="utf-8"),
        folder / "task.yaml": TASK.format(name=name, tokens=tokens, metrics="\n".join(metrics)),
        folder / "instructions.md": GUIDE + (_label_guide(replies) if kind == "labels" else ""),
        folder / "card.md": card.replace("NAME", name).replace("COUNTS", counts).replace("SCORES", told),
        config: SUITE.format(
            what=f"TO FILL: what {name} measures", name=name,
            system=json.dumps(config_text(system), ensure_ascii=False), primary=next(iter(SCORES[kind])), tokens=tokens,
        ),
        sweep: SWEEP.format(name=name),
    }  # fmt: skip
    for path, text in files.items():
        write_text(path, text)
    cut = f"the longest reply may need {needed} tokens; if it does, raise max_new_tokens: {tokens} in {config}"
    return [
        f"{folder}: {counts}" + (f" {repeated} that repeat a message were left out." if repeated else ""),
        f"scores: {', '.join(SCORES[kind])} ({kind}; {len(replies)} different replies); scorers.py holds them",
        *([cut] if needed > tokens else []),
        f"next: write {folder / 'instructions.md'} and {folder / 'card.md'}, then",
        f"  python -m harness.suites check {name}",
        f"  python -m harness +sweep={name}",
    ]


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def _label_guide(replies: Counter[str]) -> str:
    return "\nAnswer with one of these labels alone, nothing else:\n\n" + "".join(f"- {r}\n" for r in sorted(replies))
