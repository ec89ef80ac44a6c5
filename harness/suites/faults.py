"""What a grid must not begin with: a suite whose scorers, grammar, instructions or lm-eval task cannot serve."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import parse
from harness.leakage import normalised
from harness.measure.beside import beside
from harness.measure.quality import FEWSHOT_SEED, as_list, stops_of, task_of, tasks_in, until
from harness.rows import rights
from harness.suites.shape import TO_FILL
from harness.types import Component, Json, SuiteData, plain
from harness.wording import plural

LOOKED_AT = 20  # rows whose scorers a grid tries with wrong replies
TELLS_NOTHING = 0.9  # of the rows: a score that as many wrong replies pass
DECIDES = (
    "the score that decides must be from 0 to 1, and more of it better; name another, or have scorers.py give its "
    "complement (1 - value) or its share of the most, and name that here and in metric_list"
)


def own_task(data: SuiteData) -> tuple[Any, Path] | None:
    """lm-eval's task of a suite's own rows, and its file. None where lm-eval brings it along, or the folder's cannot be
    loaded, which `faults_of_task` tells."""
    if not (data.evaluation and data.task):
        return None
    with suppress(Exception, SystemExit):
        if data.task in tasks_in(data.folder).all_tasks:
            rules, manager = task_of(data, data.task)
            return rules, manager.task_index[data.task].yaml_path
    return None


def scores_replies(rules: Any) -> bool:
    """Whether a task has the suite's own scorers score a reply. Else lm-eval does, as of choices, which have none."""
    return bool(rules.config.process_results) and rules.OUTPUT_TYPE == "generate_until"


def scored(rules: Any, row: Mapping[str, Any], reply: Any) -> dict[str, Any]:
    """What a task makes of a row that is answered with a reply, ended and filtered as a grid does; of choices, with the
    first held the likeliest. Raises whatever lm-eval and the suite's own code raise."""
    if rules.OUTPUT_TYPE != "generate_until":
        return dict(plain(rules.process_results(row, _held(0, len(as_list(rules.construct_requests(row, "")))))))
    ended = until(reply, stops_of(rules)) if isinstance(reply, str) else reply
    left: Any = [[ended] * (rules.config.repeats or 1)]
    for step in rules._filters[0].filters:  # the first alone: `measure` keeps no other's scores
        left = step().apply(left, [row])
    return dict(plain(rules.process_results(dict(row), list(left))))


def _held(best: int, number: int) -> list[tuple[float, bool]]:
    """The answer of a model that holds one of some choices the likeliest."""
    return [(-float(n != best), n == best) for n in range(number)]


def faults_of_score(data: SuiteData, score: str, key: str) -> list[str]:
    """Why a score, named by a key of the configuration, cannot decide: less of it is better, no evaluation row has it,
    it is no number a row, or one not from 0 to 1. Scores the suite's reference replies until one has the score, and by
    scorers of its own wrong replies to a few rows. Tasks that lm-eval brings along are left to it."""
    if not (found := own_task(data)):
        return []
    (rules, file), where = found, data.folder / "scorers.py"
    seen: dict[str, Any] = {}
    if rules.higher_is_better().get(score) is False:
        return [f"{key}={score}: less of it is better, as {file} has it (higher_is_better: false); {DECIDES}"]
    if not (own := scores_replies(rules)) and score not in (listed := list(rules.aggregation())):
        told = f"{', '.join(listed) or 'nothing'} in metric_list"
        return [f"{key}={score}: no score of {data.name}; {file} has {told}"]
    for row in data.evaluation:
        try:
            seen |= scored(rules, row, row.get(data.reply_field) or "")
        except (Exception, SystemExit) as error:  # of lm-eval's own, `faults_of_task` tells
            return [f"{where}: raises {type(error).__name__}: {error} on row {row['id']!r}; mend it"] if own else []
        if score in seen:
            break
    numbers = [name for name, value in seen.items() if isinstance(value, int | float)]
    if score not in seen:
        return [f"{key}={score}: no score of {data.name}; it has {', '.join(numbers) or 'none'}"]
    if score not in numbers:
        other = f"take {', '.join(numbers)}" if numbers else f"have {where if own else file} give one that is"
        return [f"{key}={score}: is no number a row, so cells cannot be paired; {other}"]
    if not 0 <= seen[score] <= 1:
        return [f"{key}={score}: is {seen[score]:g} for the reference reply of row {row['id']!r}; {DECIDES}"]
    return wrong_replies(data, rules, score, data.evaluation[:LOOKED_AT])[0] if own else []


def wrong_replies(
    data: SuiteData, rules: Any, score: str, rows: Sequence[Mapping[str, Json]]
) -> tuple[list[str], list[str]]:
    """Mistakes and warnings of what the suite's scorers make of replies that are not the row's own, a line for each of
    their kinds: models answer anything."""
    where, passed, tried = data.folder / "scorers.py", Counter[str](), Counter[str]()
    wrong: dict[str, str] = {}
    said = [str(row.get(data.reply_field) or "") for row in rows]
    bare = [normalised(reply) for reply in said]
    for at, row in enumerate(rows):
        with suppress(Exception, SystemExit):  # what the row's own reply breaks is told elsewhere
            if score not in scored(rules, row, said[at]):
                continue  # one that rows like this do not have
        others = (said[n] for n in (*range(at + 1, len(rows)), *range(at)) if bare[n] != bare[at])
        kinds = {"an empty reply": "", "the reply 'x'": "x", "another row's reply": next(others, said[at])}
        for kind, reply in kinds.items():
            if normalised(reply) == bare[at]:
                continue
            told = f"on {kind} to row {row['id']!r}" + f" ({reply!r:.60})" * (kind == "another row's reply")
            try:
                value = scored(rules, row, reply).get(score)
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


def faults_of_output(data: SuiteData, suite: Component) -> list[str]:
    """What llguidance says of the suite's output grammar."""
    from harness.engine.constrained import mistakes

    found = mistakes(data.output) if data.output else []
    return [f"{data.folder / suite.params['output_file']}: {fault}" for fault in found]


def forbidden(data: SuiteData, suite: Component) -> list[str]:
    """A line where the suite's output grammar, which is one, allows no right answer of an evaluation row, or not the
    reply that a training row is trained on, as it stands: a scorer may take other writings, so it is for a person to
    judge."""
    allows = _allows(data.output) if data.output else lambda _: True
    asked = [(row, rights(row, data.reply_field)) for row in data.evaluation]
    said = [*((row, [str(row[data.reply_field])]) for row in (*data.train, *data.validation)), *asked]
    wrong = [(row["id"], right[0]) for row, right in said if right and not any(map(allows, right))]
    return [
        f"{data.folder / suite.params['output_file']}: does not allow the {data.reply_field} {reply!r:.60} of row "
        f"{name!r} ({len(wrong)} such); where answers are kept within it, widen it or mend the rows"
        for name, reply in wrong[:1]
    ]


def _allows(output: str) -> Callable[[str], bool]:
    """Whether a text is within a grammar, but for spaces around it. JSON may be written in another way than answers
    are: it is also within a JSON Schema of which it is valid, or that jsonschema cannot read."""
    from jsonschema.validators import validator_for
    from llguidance import LLMatcher, LLTokenizer

    from harness.engine.constrained import compiled

    first = LLMatcher(LLTokenizer("byte"), compiled(output), log_level=0)
    schema: Any = parse(output) if output.lstrip().startswith("{") else None

    def followed(text: str) -> bool:
        matcher = first.deep_copy()
        return bool(matcher.consume_tokens(list(text.encode())) and matcher.is_accepting())

    def allows(text: str) -> bool:
        if first.is_error() or followed(text) or followed(text.strip()):
            return True
        if schema is None:
            return False
        try:
            value = parse(text)
        except ValueError:
            return False
        with suppress(Exception):  # what jsonschema raises of a schema has no common root
            kind = validator_for(schema)
            return bool(kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(value))
        return True

    return allows


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


def _as_number(asked: Mapping[str, Any], data: SuiteData, where: Path) -> list[str]:
    """A line where lm-eval, by what its task file asks, reads a message of digits alone as the place of a choice, which
    it then refuses to ask."""
    if asked.get("doc_to_choice") is None or "{{" not in str(asked.get("doc_to_text")):
        return []
    numbers = [row["id"] for row in data.evaluation if str(row[data.message_field]).isdigit()]
    return [
        f"{where}: lm-eval reads the {data.message_field} of row {numbers[0]!r} ({len(numbers)} such), of digits "
        f"alone, as the place of a choice; name the field alone, `doc_to_text: {data.message_field}`"
    ] if numbers else []  # fmt: skip


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


def _no_choice(rules: Any, data: SuiteData, where: Path, score: str) -> list[str]:
    """A line where no choice of lm-eval's task, be it held the likeliest, is right for a row that it asks, or another
    is than the reply that is trained on."""
    number, wrong = Counter(r.doc_id for r in rules.instances), []
    texts = {(r.doc_id, r.idx): r.args[1].strip() for r in rules.instances}
    for r in (r for r in rules.instances if r.idx == 0):
        every, reply = range(number[r.doc_id]), str(r.doc.get(data.reply_field) or "").strip()
        scores = (rules.process_results(r.doc, _held(best, len(every))).get(score, 1) for best in every)
        right = [texts[r.doc_id, n] for n, passed in enumerate(scores) if passed]
        if not right or (reply and reply not in right):
            told = f"the choice {right[0]!r}, not its {data.reply_field} {reply!r}," if right else "no choice"
            wrong.append(f"{told} is right for row {r.doc.get('id')!r} by {score}")
    return [f"{where}: {wrong[0]} ({len(wrong)} such); have doc_to_target find its {data.reply_field}, which is "
            f"trained on, in doc_to_choice: `doc_to_target: {data.reply_field}` does (digits of a template are a place "
            "in that list)"] if wrong else []  # fmt: skip


def _unsummed(rules: Any, items: Mapping[str, Sequence[Any]], where: Path) -> list[str]:
    """A line for each score of which the task's aggregation cannot make one number."""
    found = []
    for name, of_all in rules.aggregation().items():
        try:
            float(of_all(items[name]) if name in items else 0)
        except (Exception, SystemExit) as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            found.append(f"{where}: the aggregation of {name} fails on what the reference replies score ({why}); give "
                         "it another in metric_list, or leave the score out")  # fmt: skip
    return found


def faults_of_task(data: SuiteData, suite: Component) -> list[str]:
    """Why lm-eval cannot ask and score the suite's rows by its task file, or asks something else than they do; nothing
    for a task that lm-eval brings along. Runs the suite's code, and takes a second for the import of lm-eval."""
    if not suite.params["task_file"]:
        return []
    where, task = data.folder / suite.params["task_file"], suite.params["task"]
    if mixed := _mixed(data, data.folder / str(suite.params["eval_file"])):
        return mixed
    try:
        manager = tasks_in(data.folder)
        if task not in manager.all_tasks:
            with beside(data.folder):
                manager.load(str(where))  # which raises where the file is none of a task
            return [f"{where}: has no task {task!r}; its first key is `task: {task}`, or set suite.task"]
        if numbers := _as_number(manager.task_index[task].cfg or {}, data, where):
            return numbers
        rules, _ = task_of(data, task)
        otherwise = _asked_otherwise(rules, data, where)
        if rules.OUTPUT_TYPE == "multiple_choice":
            otherwise += _no_choice(rules, data, where, suite.params["primary"])
        items: dict[str, list[Any]] = {}
        for r in (r for r in rules.instances if r.idx == 0 and data.evaluation):
            for name, item in scored(rules, r.doc, r.doc.get(data.reply_field) or "").items():
                items.setdefault(name, []).append(item)
        otherwise += _unsummed(rules, items, where)
        given = {*items} - {*rules.aggregation()} if scores_replies(rules) else ()
    except UserError as error:
        return list(error.mistakes)
    except (Exception, SystemExit) as error:  # whatever lm-eval and a suite's own code raise
        return [f"{where}: lm-eval cannot read it ({' '.join(f'{type(error).__name__}: {error}'.split())}); mend it"]
    return [*otherwise, *(f"{where}: score {k} is not in metric_list; add it" for k in sorted(given))]
