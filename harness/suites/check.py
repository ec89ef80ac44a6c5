"""Says all that is wrong with a suite: its rows, its scorers, its grammar and its lm-eval task."""

from __future__ import annotations

import inspect
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.leakage import INSTRUCTIONS, MODES, near, normalised
from harness.licences import rows_licence
from harness.measure.quality import stops_of
from harness.overrides import unknown_keys
from harness.power import detectable_difference, rows_needed
from harness.resources import resource
from harness.rows import rights
from harness.statistics import group_of
from harness.suite import VALIDATION_SHARE, leaks, load
from harness.suites.faults import (
    faults_of_guide,
    faults_of_output,
    faults_of_score,
    faults_of_task,
    forbidden,
    own_task,
    scored,
    scores_replies,
    wrong_replies,
)
from harness.suites.shape import (
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


def composed(group: str, name: str) -> dict[str, Any]:
    """A choice's configuration by name, from `conf/` here, else the packaged one, with those that its `defaults` name.
    Raises `UserError` for none, or one that cannot be composed."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    folders = [folder for folder in (Path("conf").resolve(), resource("conf").resolve()) if folder.is_dir()]
    found = next((path for folder in folders if (path := folder / group / f"{name}.yaml").is_file()), None)
    if found is None:
        known = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
        raise UserError(f"{group} {name!r}: no conf/{group}/{name}.yaml here or packaged; there is {', '.join(known)}")
    try:
        tree: Any = OmegaConf.load(found)
        if "defaults" in tree:  # to compose what stands alone would take a tenth of a second
            with initialize_config_dir(str(folders[0]), version_base="1.3"):
                then = ",".join(f"'file://{folder}'" for folder in folders[1:])
                tree = compose(None, [f"+{group}={name}", f"hydra.searchpath=[{then}]"])[group]
        return dict(OmegaConf.to_container(tree))  # type: ignore[arg-type]
    except Exception as error:  # what YAML, Hydra and OmegaConf raise has no common root
        raise UserError(f"{found}: cannot be read ({' '.join(str(error).split())}); mend it") from error


def config_of(name: str) -> Component:
    """A suite's configuration by name, all rows."""
    values = {**composed("suite", name), "train_rows": None, "eval_rows": None}
    leakage = values.get("leakage", "fail")
    if leakage in MODES or "${" in str(leakage):
        values["leakage"] = "warn"
    return Component(name, "", {k: v for k, v in values.items() if k not in ("name", "_target_")})


def _sides(data: SuiteData, suite: Component) -> list[tuple[Path, Sequence[Mapping[str, Json]]]]:
    """The training and the evaluation rows, each with their file."""
    rows = {"train_file": (*data.train, *data.validation), "eval_file": data.evaluation}
    return [(data.folder / str(suite.params[file]), side) for file, side in rows.items()]


def _references(data: SuiteData, rules: Any, of_row: Any, suite: Component) -> list[str]:
    """What the suite's own scorers say of its own reference replies."""
    found, primary, ends = [], suite.params["primary"], stops_of(rules)
    for file, rows in _sides(data, suite):
        for row in rows:
            at = f"{file}, row {row['id']!r}"
            reply = row.get(data.reply_field)
            try:
                if faults := of_row(dict(row)) if of_row else []:
                    found += [f"{at}: {fault}" for fault in faults]
                    continue
                scores = scored(rules, row, reply) if reply else {}
            except (Exception, SystemExit) as error:
                found.append(f"{at}: scorers.py raises {type(error).__name__}: {error}; mend the row or the scorer")
                continue
            if primary in scores and scores[primary] != 1:
                said = str(reply)
                end = min((end for end in ends if end in said), key=said.find, default="")
                cut = f", which the task ends at {end!r} (its generation_kwargs: until)," if end else ""
                found.append(
                    f"{at}: its own reference reply{cut} scores {scores[primary]:g} on {primary}; mend one of the two"
                )
    return found


def _passed_over(rules: Any, file: Path, suite: Component) -> list[str]:
    """Warnings of what lm-eval reads in a task file, and a grid does not."""
    asked, limit = rules.config.generation_kwargs or {}, suite.params["max_new_tokens"]
    others = [other.name for other in rules._filters[1:]]
    found = []
    if asked.get("do_sample", asked.get("temperature")):
        found.append("do_sample and temperature are passed over: a grid draws tokens as engine.temperature says")
    if isinstance(most := asked.get("max_gen_toks"), int) and most < limit:
        found.append(f"max_gen_toks is passed over: answers end at suite.max_new_tokens={limit}")
    if others:
        found.append(f"of its filters the first alone is scored by, not {', '.join(others)}; put the right one first")
    return [f"{file}: {line}" for line in found]


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
    """Warnings of rows that profile=quick takes, which are the first of each file, and that are unlike the others, or
    lack a label of the others that is asked."""
    profile = composed("profile", "quick")
    limits = {key: profile.get(key) for key in ("train_rows", "eval_rows")}
    try:
        quick = load(replace(suite, params={**suite.params, **limits}))
    except UserError as error:
        return [f"profile=quick: {line}" for line in error.mistakes]
    found: list[str] = []
    for (file, rows), (_, head) in zip(_sides(data, suite), _sides(quick, suite), strict=True):
        ids = {row["id"] for row in head}
        rest = [row for row in rows if row["id"] not in ids]
        found += [f"{file}: its first {len(head)} rows, which profile=quick takes, {said}; shuffle the file"
                  for said in unlike(head, rest, data.reply_field)]  # fmt: skip
    every, first = ({str(r[data.reply_field]) for r in (*d.train, *d.validation)} for d in (data, quick))
    asked = {str(row.get(data.reply_field)) for row in quick.evaluation}
    if (lacking := sorted(asked & every - first)) and not found and _unlearnt(quick, suite):
        (file, head), *_ = _sides(quick, suite)
        some = f"{plural(len(lacking), 'label')} that it asks, such as {lacking[0]!r:.60}"
        found.append(
            f"{file}: its first {len(head)} rows, which profile=quick takes, have none of {some}; shuffle the file, or "
            "put some first"
        )
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
    said = Counter(right for row in data.evaluation for right in rights(row, data.reply_field))
    if said and (most := said.most_common(1)[0])[1] > ALL_BUT * n and most[0]:
        warnings.append(f"{most[1]} of {n} evaluation rows have the reply {most[0]!r}, which passes them whatever is "
                        "asked; add rows with others")  # fmt: skip
    return warnings


def _long(data: SuiteData, suite: Component) -> list[list[str]]:
    """Warnings of rows and articles with a text many times as long as that of most: they alone set how much memory is
    held."""
    fields = (data.message_field, data.reply_field)
    texts = [(file, rows, field) for file, rows in _sides(data, suite) for field in fields]
    articles = data.folder / str(suite.params["knowledge_file"]), plain(data.knowledge), "text"
    found = []
    for file, rows, field in (*texts, articles):
        sizes = [len(str(row.get(field, ""))) for row in rows]
        usual = statistics.median(sizes) if sizes else 0
        found.append([
            f"{file}, row {row['id']!r}: its {field} has {size:,} characters, "
            f"usual are {usual:,.0f}; such rows set memory and time: shorten it, or drop what is no real case"
            for row, size in zip(rows, sizes, strict=True)
            if size > max(LONG * usual, LONG_AT_LEAST)
        ])  # fmt: skip
    return found


def _unmeetable(data: SuiteData, suite: Component) -> list[str]:
    """A warning where free text must be met word for word to pass, though the scorers that `new` makes know better."""
    rows = (*data.train, *data.validation, *data.evaluation)
    if suite.params["primary"] != "exact":
        return []
    if not are_free(Counter(str(row.get(data.reply_field) or "") for row in rows)):
        return []
    return ["suite.primary=exact: the replies are free text, of which hardly any is met word for word, so that hardly "
            "any answer can pass; take word_f1, or have scorers.py score what counts for you"]  # fmt: skip


def _majority(data: SuiteData) -> list[str]:
    """The label that most evaluation rows have, and how many it would pass: what a model has to beat."""
    said, labels = (
        Counter(right for row in rows for right in rights(row, data.reply_field))
        for rows in ((*data.train, *data.evaluation), data.evaluation)
    )
    if not labels or not are_labels(said):
        return []
    (label, most), n = labels.most_common(1)[0], len(data.evaluation)
    return [f"always answering {label!r} would be right for {most / n:.0%} of the evaluation rows"]


def check(name: str) -> tuple[list[str], list[list[str]], list[str]]:
    """Mistakes, warnings (those together that may say the same of many rows) and facts of a suite."""
    from omegaconf import OmegaConf

    suite = config_of(name)
    data = load(suite)
    primary, where, warnings = suite.params["primary"], data.folder, [_too_few(data)]
    mistakes = faults_of_score(data, primary, "suite.primary")
    rules, file = own_task(data) or (None, where)
    made = (rules.config.process_results, rules.config.custom_dataset) if rules and scores_replies(rules) else ()
    code = {name: of for f in made for name, of in getattr(inspect.unwrap(f), "__globals__", {}).items()}
    if made and not mistakes:
        wrong, doubts = wrong_replies(data, rules, primary, data.evaluation)
        mistakes += [*_references(data, rules, code.get("check"), suite), *wrong]
        warnings += [doubts, _unmeetable(data, suite) if "word_f1" in code else []]
    if rules:
        warnings.append(_passed_over(rules, file, suite))
    if "check" not in code:  # which tells it of the labels that `new` makes
        warnings.append(_unlearnt(data, suite))
    mistakes += [
        *faults_of_guide(data, suite),
        *_labels(data, suite),
        *_groups(data, suite),
        *(no_grammar := faults_of_output(data, suite)),
        *faults_of_task(data, suite),
        *leaks(data.overlaps, where, suite.params),
        *unknown_keys([OmegaConf.create({"suite": composed("suite", name)})], resource("conf")),
    ]
    every, held = (*data.train, *data.validation), where / str(suite.params["eval_file"])
    warnings += [_lopsided(data), *_long(data, suite), _repeated(data, suite), _heads(data, suite)]
    warnings.append([] if no_grammar else forbidden(data, suite))
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
