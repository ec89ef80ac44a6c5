"""`python -m harness.suites`: makes a suite of your own from a table of rows, and says what is wrong with one.

    python -m harness.suites new my_suite --from rows.csv --message question --reply answer --group customer
    python -m harness.suites check my_suite

`new` writes three things below the working directory: `suites/my_suite/` (rows, scorers, instructions and a card to
fill), `conf/suite/my_suite.yaml` and `conf/sweep/my_suite.yaml`. `python -m harness +sweep=my_suite` then finds them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import io
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.leakage import near, plain
from harness.ledger import write_text
from harness.licences import rows_licence
from harness.resources import resource
from harness.statistics import detectable_difference, group_of, rows_needed
from harness.suite import hashed, json_lines, load
from harness.types import Component, SuiteData

EVALUATION_SHARE = 0.3
LABELS_AT_MOST, LABEL_LENGTH = 40, 40  # more or longer replies are texts
CLAIM = 0.05  # a difference worth showing
TYPICAL_DISAGREEMENT = 0.1
SHOWN = 20  # lines of one kind
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


# ---------------------------------------------------------------------------------------------------------------- new


def read_table(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a CSV or JSONL file, each with where it stands. Raises `UserError` for what cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from error
    if path.suffix.lower() in (".csv", ".tsv"):
        mark = "\t" if path.suffix.lower() == ".tsv" else ","
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        try:
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
            if not v.strip():
                mistakes.append(f"{where}: {k} is empty; fill it in or delete the row")
        if names["group"] in columns and not str(row.get(names["group"]) or "").strip():
            mistakes.append(f"{where}: group is empty; fill it in, or leave the column out")
        if None in row:
            mistakes.append(f"{where}: more cells than the header has columns; quote cells that hold commas")
        key = str(row.get(names["id"]) or f"row-{number:05d}")
        if key in seen:
            mistakes.append(f"{where}: id {key!r} stands in {seen[key].rpartition(', ')[2]} too; make ids unique")
        seen.setdefault(key, where)
        said = plain(message)
        first, other = replies.setdefault(said, (reply, where))
        if first != reply:
            mistakes.append(
                f"{where}: the message of {other.rpartition(', ')[2]} with another reply; keep the one that is right"
            )
        group = str(row.get(names["group"]) or hashlib.sha256(said.encode()).hexdigest()[:12])
        entry = {"id": key, "group": group, "message": message.strip(), "reply": reply.strip()}
        if row.get(names["case"]):
            entry["case"] = str(row[names["case"]])
        made.append(entry)
    if mistakes:
        raise UserError(mistakes)
    return made


def _text(value: Any) -> str:
    """A cell as text: objects and lists as JSON without spaces, as models are asked to write it."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return "" if value is None else str(value)


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
    if taken := [p for p in (folder, config, sweep) if p.exists()]:
        raise UserError(f"{taken[0]}: is there already; choose another name, or delete it")
    if not 0 < share < 1:
        raise UserError(f"--eval-share {share}: give a share between 0 and 1")
    every = shaped(read_table(source), source, names)
    rows = list({plain(r["message"]): r for r in reversed(every)}.values())[::-1]
    repeated = len(every) - len(rows)
    train, held = split(rows, share)
    if not train or not held:
        raise UserError(
            f"{source}: {len({r['group'] for r in rows})} groups are too few to split; name a finer --group column"
        )
    replies = Counter(r["reply"] for r in rows)
    short = all("\n" not in r and len(r) <= LABEL_LENGTH for r in replies)
    kind = "labels" if short and len(replies) <= min(LABELS_AT_MOST, len(rows) / 5) else "text"
    longest = max(len(r["reply"].encode()) for r in rows)
    tokens = min(1024, 16 + longest // 2)  # a token holds two bytes or more of nearly any text
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
            what=f"TO FILL: what {name} measures", name=name, system=json.dumps(system, ensure_ascii=False),
            primary=next(iter(SCORES[kind])), tokens=tokens,
        ),
        sweep: SWEEP.format(name=name),
    }  # fmt: skip
    for path, text in files.items():
        write_text(path, text)
    return [
        f"{folder}: {counts}" + (f" {repeated} that repeat a message were left out." if repeated else ""),
        f"scores: {', '.join(SCORES[kind])} ({kind}; {len(replies)} different replies); scorers.py holds them",
        f"next: write {folder / 'instructions.md'} and {folder / 'card.md'}, then",
        f"  python -m harness.suites check {name}",
        f"  python -m harness +sweep={name}",
    ]


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def _label_guide(replies: Counter[str]) -> str:
    return "\nAnswer with one of these labels alone, nothing else:\n\n" + "".join(f"- {r}\n" for r in sorted(replies))


# -------------------------------------------------------------------------------------------------------------- check


def config_of(name: str) -> Component:
    """A suite's configuration by name, all rows: from `conf/suite/` here, else the packaged one."""
    from omegaconf import OmegaConf

    places = [Path("conf/suite") / f"{name}.yaml", resource("conf") / "suite" / f"{name}.yaml"]
    found = next((p for p in places if p.is_file()), None)
    if found is None:
        known = sorted({p.stem for place in places for p in place.parent.glob("*.yaml")})
        raise UserError(f"suite {name!r}: no conf/suite/{name}.yaml here or packaged; there is {', '.join(known)}")
    try:
        tree = OmegaConf.merge(OmegaConf.load(found), {"train_rows": None, "eval_rows": None, "leakage": "warn"})
        values: Any = OmegaConf.to_container(tree)
    except Exception as error:  # what YAML and OmegaConf raise has no common root
        raise UserError(f"{found}: cannot be read ({' '.join(str(error).split())}); mend it") from error
    needed = [line.partition(":")[0] for line in SUITE.splitlines() if line[:1].isalpha()]
    if lacking := [k for k in needed if k not in values and k not in ("asked", "output_file")]:
        raise UserError(f"{found}: no {', '.join(lacking)}; another suite's file shows what belongs there")
    return Component(name, "", {k: v for k, v in values.items() if k not in ("name", "_target_")})


def scorers_of(folder: Path) -> Any:
    """The suite's `scorers.py` as a module: it is run, so check only suites that you trust."""
    path = folder / "scorers.py"
    spec = importlib.util.spec_from_file_location(f"scorers_{folder.name}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"{path}: missing; a suite needs its scorers")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: cannot be run ({type(error).__name__}: {error}); mend it") from error
    if not hasattr(module, "process_results"):
        raise UserError(f"{path}: has no process_results(doc, results); lm-eval calls it for each row")
    return module


def faults_of_primary(data: SuiteData, primary: str, module: Any = None) -> list[str]:
    """Why a score cannot decide: no evaluation row has it, or it is no number a row. Runs the suite's scorers
    (`module`, if they are loaded) on its reference replies until one has the score; tasks that lm-eval brings along are
    left to it."""
    where, seen = data.folder / "scorers.py", {}
    if not data.evaluation or not where.is_file():
        return []
    module = module or scorers_of(data.folder)
    for row in data.evaluation:
        try:
            seen.update(module.process_results(dict(row), [row.get(data.reply_field) or ""]))
        except Exception as error:
            return [f"{where}: raises {type(error).__name__}: {error} on row {row['id']!r}; mend it"]
        if primary in seen:
            break
    numbers = [name for name, value in seen.items() if isinstance(value, int | float)]
    if primary not in seen:
        return [f"suite.primary={primary}: no score of {data.name}; it has {', '.join(numbers)}"]
    if primary not in numbers:
        return [f"suite.primary={primary}: is no number a row, so cells cannot be paired; take {', '.join(numbers)}"]
    return []


def _references(data: SuiteData, module: Any, primary: str, where: Path) -> list[str]:
    """What the suite's own scorers say of its own reference replies."""
    found = []
    for file, rows in (("train", (*data.train, *data.validation)), ("eval", data.evaluation)):
        for row in rows:
            at = f"{where / file}.jsonl, row {row['id']!r}"
            reply = row.get(data.reply_field)
            try:
                if faults := module.check(dict(row)) if hasattr(module, "check") else []:
                    found += [f"{at}: {fault}" for fault in faults]
                    continue
                scores = module.process_results(dict(row), [reply]) if reply else {}
            except Exception as error:
                found.append(f"{at}: scorers.py raises {type(error).__name__}: {error}; mend the row or the scorer")
                continue
            if primary in scores and scores[primary] != 1:
                found.append(
                    f"{at}: its own reference reply scores {scores[primary]:g} on {primary}; mend one of the two"
                )
    return found


def faults_of_output(data: SuiteData, suite: Component) -> list[str]:
    """What llguidance says of the suite's output grammar."""
    from harness.engine.constrained import mistakes

    found = mistakes(data.output) if data.output else []
    return [f"{data.folder / suite.params['output_file']}: {fault}" for fault in found]


def _task(data: SuiteData, suite: Component, module: Any) -> list[str]:
    """What lm-eval says of the suite's task."""
    if not suite.params["task_file"]:
        return []
    where, task = data.folder / suite.params["task_file"], suite.params["task"]
    try:
        from lm_eval.tasks import TaskManager

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        manager = TaskManager(include_path=str(data.folder), include_defaults=False)
        if task not in manager.all_tasks:
            return [f"{where}: has no task {task!r}; its first key is `task: {task}`"]
        listed = set(manager.load(task)["tasks"][task].aggregation())
        given = {k for r in data.evaluation for k in module.process_results(dict(r), [r.get(data.reply_field) or ""])}
    except Exception as error:  # whatever lm-eval and a suite's own code raise
        return [f"{where}: lm-eval cannot read it ({' '.join(f'{type(error).__name__}: {error}'.split())}); mend it"]
    return [f"{where}: score {k} is not in metric_list; add it" for k in sorted(given - listed)]


def check(name: str) -> tuple[list[str], list[str], list[str]]:
    """Mistakes, warnings and facts of a suite."""
    suite = config_of(name)
    data = load(suite)
    primary, where = suite.params["primary"], data.folder
    module = scorers_of(where)
    mistakes = faults_of_primary(data, primary, module) or _references(data, module, primary, where)
    mistakes += [*faults_of_output(data, suite), *_task(data, suite, module)]
    every = (*data.train, *data.validation)
    for o in data.overlaps:
        mistakes.append(f"{where / 'eval.jsonl'}, row {o.row!r}: same {'text' if o.kind == 'exact' else 'group'} as "
                        f"{o.source} row {o.other!r}; remove one, or set leakage=drop")  # fmt: skip
    warnings = []
    n = len(data.evaluation)
    groups = Counter(map(group_of, data.evaluation))
    least = detectable_difference(n, TYPICAL_DISAGREEMENT)
    if least > CLAIM:
        enough = rows_needed(CLAIM, TYPICAL_DISAGREEMENT)
        shown = f"only differences of {least:.0%} or more" if least < 1 else "no difference at all"
        warnings.append(f"all {n} evaluation rows together likely show {shown} (if cells differ on a tenth of them); "
                        f"{enough} would show {CLAIM:.0%}")  # fmt: skip
    if len(groups) < min(n, 20):
        warnings.append(f"the evaluation rows have only {len(groups)} groups; intervals will be wide, since rows of a "
                        "group count as alike")  # fmt: skip
    if "TO FILL" in (where / "card.md").read_text(encoding="utf-8") if (where / "card.md").is_file() else True:
        warnings.append(f"{where / 'card.md'}: not filled in; say what is measured and how the rows were made")
    elif not rows_licence(where):
        warnings.append(f"{where / 'card.md'}: states no licence of the rows; write one under a heading 'Licence'")
    alike = near(data.evaluation, every, data.knowledge, data.message_field)
    warnings += [
        f"{where / 'eval.jsonl'}, row {o.row!r}: {o.similarity:.0%} like {o.source} row {o.other!r}" for o in alike
    ]
    facts = [
        f"{len(data.train)} training, {len(data.validation)} validation and {n} evaluation rows in {len(groups)} "
        f"groups, {len(data.knowledge)} articles; deciding score {primary}"
    ]
    return mistakes, warnings, facts


# ------------------------------------------------------------------------------------------------------- command line


def _told(lines: Sequence[str], prefix: str) -> None:
    for line in lines[:SHOWN]:
        print(f"{prefix}{line}", file=sys.stderr)
    if len(lines) > SHOWN:
        print(f"{prefix}... and {len(lines) - SHOWN} more", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for a mistake in the command or the suite."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.suites", description="Make a suite of your own, or check one."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("new", help="make a suite from a CSV or JSONL file")
    make.add_argument("name", help="lower-case letters, digits and _")
    make.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help="a .csv, .tsv or .jsonl")
    for column, what in (
        ("message", "what is asked"), ("reply", "the reference answer"), ("group", "what belongs together (optional)"),
        ("case", "the kind of row (optional)"), ("id", "a unique name (optional)"),
    ):  # fmt: skip
        make.add_argument(f"--{column}", default=column, metavar="COLUMN", help=f"the column that holds {what}")
    make.add_argument("--eval-share", type=float, default=EVALUATION_SHARE, help="of the groups (default 0.3)")
    make.add_argument("--system", default="You are a helpful assistant.", help="the system message")
    look = commands.add_parser("check", help="say all that is wrong with a suite (this runs its scorers.py)")
    look.add_argument("name")
    given = parser.parse_args(arguments)
    try:
        if given.command == "new":
            names = {k: getattr(given, k) for k in ("message", "reply", "group", "case", "id")}
            print("\n".join(new(given.name, given.source, names, given.eval_share, given.system, Path())))
            return 0
        mistakes, warnings, facts = check(given.name)
    except UserError as error:
        _told(error.mistakes, "harness: ")
        return 2
    _told(mistakes, "mistake: ")
    _told(warnings, "warning: ")
    print("\n".join(facts))
    counts = [f"{len(found)} {what}{'' if len(found) == 1 else 's'}" for found, what in
              ((mistakes, "mistake"), (warnings, "warning"))]  # fmt: skip
    print(f"{given.name}: {', '.join(counts)}")
    return 2 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
