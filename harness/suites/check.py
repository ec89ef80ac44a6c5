"""Says all that is wrong with a suite: its rows, its scorers, its grammar and its lm-eval task."""

from __future__ import annotations

import importlib.util
import io
import logging
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError
from harness.leakage import INSTRUCTIONS, MODES, near, normalised
from harness.licences import rows_licence
from harness.measure.quality import FEWSHOT_SEED, task_of
from harness.power import detectable_difference, rows_needed
from harness.resources import resource
from harness.statistics import group_of
from harness.suite import VALIDATION_SHARE, load
from harness.suites.shape import (
    TO_FILL,
    are_free,
    are_labels,
    few_groups,
    folded,
    in_groups,
    misspelt,
    uneven,
    unlearnt,
    unlike,
)
from harness.types import Component, Json, SuiteData, plain
from harness.wording import plural

CLAIM = 0.05  # a difference worth showing
TYPICAL_DISAGREEMENT = 0.1
ALL_BUT = 0.95  # of the rows with one reply: the others hardly count
LONG, LONG_AT_LEAST = 10, 1_000  # times the median, and characters
LOOKED_AT = 20  # rows whose scorers a grid tries with wrong replies
TELLS_NOTHING = 0.9  # of the rows: a score that as many wrong replies pass
DECIDES = (
    "the score that decides must be from 0 to 1, and more of it better; name another, or have scorers.py give its "
    "complement (1 - value) or its share of the most, and name that here and in metric_list"
)


def config_of(name: str) -> Component:
    """A suite's configuration by name, all rows: from `conf/suite/` here, else the packaged one. Raises `UserError` for
    none, or one that is no YAML."""
    from omegaconf import OmegaConf

    places = [Path("conf/suite") / f"{name}.yaml", resource("conf") / "suite" / f"{name}.yaml"]
    found = next((p for p in places if p.is_file()), None)
    if found is None:
        known = sorted({p.stem for place in places for p in place.parent.glob("*.yaml")})
        raise UserError(f"suite {name!r}: no conf/suite/{name}.yaml here or packaged; there is {', '.join(known)}")
    try:
        tree: Any = OmegaConf.merge(OmegaConf.load(found), {"train_rows": None, "eval_rows": None})
        if OmegaConf.is_interpolation(tree, "leakage") or tree.get("leakage", "fail") in MODES:
            tree.leakage = "warn"
        values: Any = OmegaConf.to_container(tree)
    except Exception as error:  # what YAML and OmegaConf raise has no common root
        raise UserError(f"{found}: cannot be read ({' '.join(str(error).split())}); mend it") from error
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
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}: cannot be run ({type(error).__name__}: {error}); mend it") from error
    return module


def _tasks(folder: Path) -> dict[Path, dict[str, Any]]:
    """The task files of a folder and below it, each with what the one has that it includes; what cannot be read as such
    is left to lm-eval to tell."""
    found: dict[Path, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*yaml")):  # what lm-eval's own include is named _default_yaml
        with suppress(OSError, yaml.YAMLError, RecursionError, ValueError):
            told = yaml.BaseLoader(path.read_bytes()).get_single_data()  # texts alone: !function runs nothing
            found |= {path: told} if isinstance(told, dict) else {}
    whole = {path: found.get(path.parent / str(t.get("include")), {}) | t for path, t in found.items()}
    return {path: task for path, task in whole.items() if "task" in task}


def _listed(task: Mapping[str, Any]) -> dict[str, bool]:
    """The scores that a task file lists, and whether less of each is better."""
    every = task.get("metric_list")
    listed = [metric for metric in every if isinstance(metric, dict)] if isinstance(every, list) else []
    return {str(m.get("metric")): str(m.get("higher_is_better")).lower() in ("false", "no", "off") for m in listed}


def _scores_replies(task: Mapping[str, Any]) -> bool:
    """Whether a task has the suite's own scorers score a reply. Else lm-eval does, as of choices, which have none."""
    return "process_results" in task and task.get("output_type", "generate_until") == "generate_until"


def _scored_by_lm_eval(data: SuiteData, score: str) -> bool:
    """Whether a score is one that lm-eval gives of the suite's own rows without its scorers."""
    tasks = _tasks(data.folder).values()
    return any(score in _listed(t) for t in tasks if not _scores_replies(t)) or not any(map(_scores_replies, tasks))


def faults_of_score(data: SuiteData, score: str, key: str, module: Any = None) -> list[str]:
    """Why a score, named by a key of the configuration, cannot decide: less of it is better, no evaluation row has it,
    it is no number a row, or one not from 0 to 1. Runs the suite's scorers (`module`, if they are loaded) on its
    reference replies until one has the score, and on wrong replies to a few rows. Of a task that lm-eval scores itself
    the score need only be listed; those that it brings along are left to it. Raises `UserError` for scorers that cannot
    be run."""
    where, tasks = data.folder / "scorers.py", _tasks(data.folder)
    seen: dict[str, Any] = {}
    if not data.evaluation or not tasks:
        return []
    if less := [path for path, task in tasks.items() if _listed(task).get(score)]:
        return [f"{key}={score}: less of it is better, as {less[-1]} has it (higher_is_better: false); {DECIDES}"]
    if _scored_by_lm_eval(data, score):
        listed = [name for task in tasks.values() for name in _listed(task)]
        told = f"{', '.join(listed) or 'nothing'} in metric_list"
        return [] if score in listed else [f"{key}={score}: no score of {data.name}; {next(iter(tasks))} has {told}"]
    if not (module or where.is_file()):
        return []
    module = module or scorers_of(data.folder)
    if not hasattr(module, "process_results"):
        return [f"{where}: has no process_results(doc, results); lm-eval calls it for each row"]
    for row in data.evaluation:
        try:
            seen |= plain(module.process_results(dict(row), [row.get(data.reply_field) or ""]))
        except (Exception, SystemExit) as error:
            return [f"{where}: raises {type(error).__name__}: {error} on row {row['id']!r}; mend it"]
        if score in seen:
            break
    numbers = [name for name, value in seen.items() if isinstance(value, int | float)]
    if score not in seen:
        return [f"{key}={score}: no score of {data.name}; it has {', '.join(numbers) or 'none'}"]
    if score not in numbers:
        other = f"take {', '.join(numbers)}" if numbers else f"mend {where}"
        return [f"{key}={score}: is no number a row, so cells cannot be paired; {other}"]
    if not 0 <= seen[score] <= 1:
        return [f"{key}={score}: is {seen[score]:g} for the reference reply of row {row['id']!r}; {DECIDES}"]
    return _wrong_replies(data, module, score, data.evaluation[:LOOKED_AT])[0]


def _wrong_replies(
    data: SuiteData, module: Any, score: str, rows: Sequence[Mapping[str, Json]]
) -> tuple[list[str], list[str]]:
    """Mistakes and warnings of what the suite's scorers make of replies that are not the row's own, a line for each of
    their kinds: models answer anything."""
    where, passed, tried = data.folder / "scorers.py", Counter[str](), Counter[str]()
    wrong: dict[str, str] = {}
    said = [str(row.get(data.reply_field) or "") for row in rows]
    bare = [normalised(reply) for reply in said]
    for at, row in enumerate(rows):
        with suppress(Exception, SystemExit):  # what the row's own reply breaks is told elsewhere
            if score not in plain(module.process_results(dict(row), [said[at]])):
                continue  # one that rows like this do not have
        others = (said[n] for n in (*range(at + 1, len(rows)), *range(at)) if bare[n] != bare[at])
        kinds = {"an empty reply": "", "the reply 'x'": "x", "another row's reply": next(others, said[at])}
        for kind, reply in kinds.items():
            if normalised(reply) == bare[at]:
                continue
            told = f"on {kind} to row {row['id']!r}" + f" ({reply!r:.60})" * (kind == "another row's reply")
            try:
                value = plain(module.process_results(dict(row), [reply])).get(score)
            except (Exception, SystemExit) as error:
                wrong.setdefault(kind, f"{where}: raises {type(error).__name__}: {error} {told}; mend it")
                continue
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                wrong.setdefault(kind, f"{where}: {score} is {value!r} {told}; it must be a number from 0 to 1, "
                                       "whatever is answered")  # fmt: skip
            tried[kind] += 1
            passed[kind] += value == 1
    return list(wrong.values()), [
        f"{where}: {kind} passes {score} on {passed[kind] / n:.0%} of {plural(n, 'row')}; such a score tells little of "
        "whether an answer is right"
        for kind, n in tried.items()
        if passed[kind] >= TELLS_NOTHING * n
    ]


def _sides(data: SuiteData, suite: Component) -> list[tuple[Path, Sequence[Mapping[str, Json]]]]:
    """The training and the evaluation rows, each with their file."""
    rows = {"train_file": (*data.train, *data.validation), "eval_file": data.evaluation}
    return [(data.folder / str(suite.params[file]), side) for file, side in rows.items()]


def _references(data: SuiteData, module: Any, suite: Component) -> list[str]:
    """What the suite's own scorers say of its own reference replies."""
    found, primary = [], suite.params["primary"]
    for file, rows in _sides(data, suite):
        for row in rows:
            at = f"{file}, row {row['id']!r}"
            reply = row.get(data.reply_field)
            try:
                if faults := module.check(dict(row)) if hasattr(module, "check") else []:
                    found += [f"{at}: {fault}" for fault in faults]
                    continue
                scores = module.process_results(dict(row), [reply]) if reply else {}
            except (Exception, SystemExit) as error:
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


def faults_of_guide(data: SuiteData, suite: Component) -> list[str]:
    """A line for each line of the instructions that `new` left to be written: prompt_rag would tell the model that."""
    at = data.folder / suite.params["instructions_file"]
    return [
        f"{at}, line {n}: still “{TO_FILL}”; write there what a good answer looks like: prompt_rag tells the model"
        for n, line in enumerate(data.instructions.split("\n"), start=1)
        if line.lstrip("#*- ").startswith(TO_FILL)
    ]


def _mixed(data: SuiteData, file: Path) -> list[str]:
    """A line for each field whose values are of several types, which lm-eval's tables cannot hold."""
    first: dict[str, tuple[type, str]] = {}
    found: dict[str, str] = {}
    for row in data.evaluation:
        for field, value in row.items():
            kind = float if type(value) is int else type(value)
            known, other = first.setdefault(field, (kind, row["id"])) if value is not None else (kind, "")
            if kind is not known:
                found.setdefault(field, f"{file}, row {row['id']!r}: {field} is {value!r}, and of another type in row "
                                        f"{other!r}; write it alike in all rows")  # fmt: skip
    return list(found.values())


def _asked_otherwise(rules: Any, data: SuiteData, where: Path) -> list[str]:
    """A line where lm-eval's task does not ask an evaluation row's message as it stands, which is what is trained on,
    timed, looked through for leaks and exported. Requests are built as a grid builds them; raises what that does."""
    rules.set_fewshot_seed(seed=FEWSHOT_SEED)
    with redirect_stderr(io.StringIO()):  # a bar of progress
        rules.build_all_requests(limit=len(data.evaluation) or 1)
    said = {row["id"]: row[data.message_field] for row in data.evaluation}
    asked = [(str(r.doc.get("id")), r.args[0]) for r in rules.instances if r.idx == 0]
    other = [name for name, text in asked if said and said.get(name) != text]
    return [
        f"{where}: its doc_to_text, description, num_fewshot, gen_prefix or process_docs changes the "
        f"{data.message_field} of row {other[0]!r} ({len(other)} such), which is trained on, timed and exported as it "
        "stands in the row; write it into the rows, or into suite.system"
    ] if other else []  # fmt: skip


def _no_choice(rules: Any, where: Path, score: str) -> list[str]:
    """A line where no choice of lm-eval's task, be it held the likeliest, is right for a row that it asks."""
    number, lost = Counter(r.doc_id for r in rules.instances), []
    for r in (r for r in rules.instances if r.idx == 0):
        every = range(number[r.doc_id])
        chances = ([(-float(n != best), n == best) for n in every] for best in every)
        if not any(rules.process_results(r.doc, each).get(score, 1) for each in chances):
            lost.append(r.doc.get("id"))
    return [f"{where}: no choice is right for row {lost[0]!r} by {score} ({len(lost)} such); have doc_to_target find "
            "its reply in doc_to_choice"] if lost else []  # fmt: skip


def faults_of_task(data: SuiteData, suite: Component) -> list[str]:
    """Why lm-eval cannot ask and score the suite's rows by its task file, or asks something else than they do; nothing
    for a task that lm-eval brings along. Runs the suite's code, and takes a second for the import of lm-eval."""
    if not suite.params["task_file"]:
        return []
    where, task = data.folder / suite.params["task_file"], suite.params["task"]
    if mixed := _mixed(data, data.folder / str(suite.params["eval_file"])):
        return mixed
    try:
        from lm_eval.tasks import TaskManager

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        manager = TaskManager(include_path=str(data.folder), include_defaults=False)
        if task not in manager.all_tasks:
            manager.load(str(where))  # which raises where the file is none of a task
            return [f"{where}: has no task {task!r}; its first key is `task: {task}`, or set suite.task"]
        rules, _ = task_of(data, task)
        listed, given = set(rules.aggregation()), set()
        otherwise = _asked_otherwise(rules, data, where)
        if rules.config.process_results and rules.OUTPUT_TYPE == "generate_until":
            given = {k for r in data.evaluation for k in rules.process_results(r, [r.get(data.reply_field) or ""])}
        elif rules.OUTPUT_TYPE == "multiple_choice":
            otherwise += _no_choice(rules, where, suite.params["primary"])
    except (Exception, SystemExit) as error:  # whatever lm-eval and a suite's own code raise
        return [f"{where}: lm-eval cannot read it ({' '.join(f'{type(error).__name__}: {error}'.split())}); mend it"]
    return [*otherwise, *(f"{where}: score {k} is not in metric_list; add it" for k in sorted(given - listed))]


def _too_few(data: SuiteData) -> list[str]:
    """Warnings of evaluation rows that show little; none where they are those of a task that lm-eval brings along."""
    n, groups, warnings = len(data.evaluation), len(set(map(group_of, data.evaluation))), []
    if not n:
        return []
    if few := few_groups(data.evaluation):
        return few
    least = detectable_difference(n, TYPICAL_DISAGREEMENT)
    if least > CLAIM:
        enough = rows_needed(CLAIM, TYPICAL_DISAGREEMENT)
        warnings.append(f"all {n} evaluation rows together likely show only differences of {least:.0%} or more (if "
                        f"cells differ on a tenth of them); {enough} would show {CLAIM:.0%}")  # fmt: skip
    if groups < min(n, 20):
        warnings.append(f"the evaluation rows have only {groups} groups; intervals will be wide, since rows of a "
                        "group count as alike")  # fmt: skip
    return warnings


def _labels(data: SuiteData, suite: Component) -> list[str]:
    """A line for each row whose label is another one but for how it is written."""
    said = [(f"{file}, row {row['id']!r}", str(row.get(data.reply_field) or ""))
            for file, rows in _sides(data, suite) for row in rows]  # fmt: skip
    return misspelt(said) if are_labels(Counter(label for _, label in said)) else []


def _unlearnt(data: SuiteData, suite: Component) -> list[str]:
    """A warning for each label of evaluation rows that no training row has."""
    (_, fit), (file, rows) = _sides(data, suite)
    trained = Counter(str(row[data.reply_field]) for row in fit)
    asked = [(f"{file}, row {row['id']!r}", str(row[data.reply_field])) for row in rows if row.get(data.reply_field)]
    return unlearnt(trained, asked) if are_labels(trained + Counter(label for _, label in asked)) else []


def _groups(data: SuiteData, suite: Component) -> list[str]:
    """A line for each group that is another one but for how it is written, where the two stand on both sides."""
    named = [[(f"{file}, row {row['id']!r}", str(row["group"])) for row in rows if row.get("group")]
             for file, rows in _sides(data, suite)]  # fmt: skip
    trained, held = ({folded(group) for _, group in side} for side in named)
    return misspelt([(at, group) for side in named for at, group in side if folded(group) in trained & held], "group")


def _repeated(data: SuiteData, suite: Component) -> list[str]:
    """Warnings of messages that stand twice in a file without a group in common: they count as independent, and of the
    training rows one may be validated with."""
    found = []
    for file, rows in _sides(data, suite):
        first: dict[str, Mapping[str, Json]] = {}
        pairs = [(row, first.setdefault(normalised(str(row[data.message_field])), row)) for row in rows]
        if again := [(row["id"], other["id"]) for row, other in pairs if group_of(row) != group_of(other)]:
            (row_id, other_id), n = again[0], len(again)
            found.append(f"{file}, row {row_id!r}: asks what row {other_id!r} asks ({n} such); give them one group, or "
                         "leave one out")  # fmt: skip
    return found


def _heads(data: SuiteData, suite: Component) -> list[str]:
    """Warnings of rows that profile=quick takes, which are the first of each file, and that are unlike the others."""
    profile = yaml.safe_load((resource("conf") / "profile/quick.yaml").read_bytes())
    limits = {key: profile[key] for key in ("train_rows", "eval_rows")}
    try:
        quick = load(replace(suite, params={**suite.params, **limits}))
    except UserError as error:
        return [f"profile=quick: {line}" for line in error.mistakes]
    found = []
    for (file, rows), (_, head) in zip(_sides(data, suite), _sides(quick, suite), strict=True):
        ids = {row["id"] for row in head}
        rest = [row for row in rows if row["id"] not in ids]
        found += [f"{file}: its first {len(head)} rows, which profile=quick takes, {said}; shuffle the file"
                  for said in unlike(head, rest, data.reply_field)]  # fmt: skip
    return found


def _lopsided(data: SuiteData) -> list[str]:
    """Warnings of parts that are not as large as they should be, and of evaluation rows that one reply would pass."""
    warnings = uneven(
        {"training": data.train, "validation": data.validation},
        {"training": 1 - VALIDATION_SHARE, "validation": VALIDATION_SHARE},
    )
    n, fit = len(data.evaluation), len(data.train)
    if fit < n:
        warnings.append(f"{fit} rows to train on are fewer than the {n} to evaluate with; add training rows")
    said = Counter(str(r.get(data.reply_field) or "") for r in data.evaluation)
    if said and (most := said.most_common(1)[0])[1] > ALL_BUT * n and most[0]:
        warnings.append(f"{most[1]} of {n} evaluation rows have the reply {most[0]!r}, which passes them whatever is "
                        "asked; add rows with others")  # fmt: skip
    return warnings


def _long(data: SuiteData, suite: Component) -> list[list[str]]:
    """Warnings of rows with a text many times as long as that of most: they alone set how much memory is held."""
    found = []
    for file, rows in _sides(data, suite):
        for field in (data.message_field, data.reply_field):
            sizes = [len(str(row.get(field, ""))) for row in rows]
            usual = statistics.median(sizes) if sizes else 0
            found.append([
                f"{file}, row {row['id']!r}: its {field} has {size:,} characters, "
                f"usual are {usual:,.0f}; such rows set memory and time: shorten it, or drop what is no real case"
                for row, size in zip(rows, sizes, strict=True)
                if size > max(LONG * usual, LONG_AT_LEAST)
            ])  # fmt: skip
    return found


def _unmeetable(data: SuiteData, suite: Component, module: Any) -> list[str]:
    """A warning where free text must be met word for word to pass, though the scorers that `new` makes know better."""
    rows = (*data.train, *data.validation, *data.evaluation)
    if suite.params["primary"] != "exact" or not hasattr(module, "word_f1"):
        return []
    if not are_free(Counter(str(row.get(data.reply_field) or "") for row in rows)):
        return []
    return ["suite.primary=exact: the replies are free text, of which hardly any is met word for word, so that hardly "
            "any answer can pass; take word_f1, or have scorers.py score what counts for you"]  # fmt: skip


def _majority(data: SuiteData) -> list[str]:
    """The label that most evaluation rows have, and how many it would pass: what a model has to beat."""
    said = Counter(str(row.get(data.reply_field) or "") for row in (*data.train, *data.evaluation))
    labels = Counter(str(row.get(data.reply_field) or "") for row in data.evaluation)
    if not labels or not are_labels(said):
        return []
    (label, most), n = labels.most_common(1)[0], labels.total()
    return [f"always answering {label!r} would be right for {most / n:.0%} of the evaluation rows"]


def check(name: str) -> tuple[list[str], list[list[str]], list[str]]:
    """Mistakes, warnings (those together that may say the same of many rows) and facts of a suite."""
    suite = config_of(name)
    data = load(suite)
    primary, where, mistakes, warnings = suite.params["primary"], data.folder, [], [_too_few(data)]
    if data.evaluation:
        module = None if _scored_by_lm_eval(data, primary) else scorers_of(where)
        mistakes += faults_of_score(data, primary, "suite.primary", module)
        if module and not mistakes:
            wrong, doubts = _wrong_replies(data, module, primary, data.evaluation)
            mistakes += [*_references(data, module, suite), *wrong]
            warnings += [doubts, _unmeetable(data, suite, module)]
        if not hasattr(module, "check"):  # which tells it of the labels that `new` makes
            warnings.append(_unlearnt(data, suite))
    mistakes += [
        *faults_of_guide(data, suite),
        *_labels(data, suite),
        *_groups(data, suite),
        *faults_of_output(data, suite),
        *faults_of_task(data, suite),
    ]
    every, held = (*data.train, *data.validation), where / str(suite.params["eval_file"])
    for o in data.overlaps:
        mistakes.append(
            f"{held}, row {o.row!r}: its text stands in {o.other}; write another example there"
            if o.source == INSTRUCTIONS
            else f"{held}, row {o.row!r}: same {'text' if o.kind == 'exact' else 'group'} as {o.source} row "
            f"{o.other!r}; remove one, or set leakage=drop"
        )
    warnings += [_lopsided(data), *_long(data, suite), _repeated(data, suite), _heads(data, suite)]
    card = where / "card.md"
    if not card.is_file() or "TO FILL" in card.read_text(encoding="utf-8", errors="replace"):
        warnings.append([f"{card}: not filled in; say what is measured and how the rows were made"])
    elif not rows_licence(where):
        warnings.append([f"{card}: states no licence of the rows; write one under a heading 'Licence'"])
    alike = near(data.evaluation, every, data.knowledge, data.message_field, data.told)
    for source in dict.fromkeys(o.source for o in alike):
        warnings.append([
            f"{held}, row {o.row!r}: {o.similarity:.0%} like "
            + (o.other if source == INSTRUCTIONS else f"{source} row {o.other!r}")
            + ", or a part of it; remove one where it gives the other away" for o in alike if o.source == source
        ])  # fmt: skip
    asked = (
        in_groups(data.evaluation, "evaluation")
        if data.evaluation
        else f"the evaluation rows of lm-eval's task {suite.params['task']}"
    )
    facts = [
        f"{in_groups(data.train, 'training')}, {in_groups(data.validation, 'validation')} and {asked}, "
        f"{plural(len(data.knowledge), 'article')}; deciding score {primary}",
        *_majority(data),
    ]
    return mistakes, warnings, facts
