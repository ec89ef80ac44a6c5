"""Quality, through lm-eval: the suite's own task file, scored row by row on what the engine generates."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf, isclose
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.errors import UserError
from harness.measure.beside import beside
from harness.measure.fidelity import fidelity
from harness.prompt import load_prompter, render
from harness.rows import REFERENCES, example_hash, rights
from harness.statistics import bootstrap, group_of, place, share_interval
from harness.types import Completion, Component, Context, Interval, Json, Measurement, Session, SuiteData, plain

ROWS_FILE = "rows.jsonl"
FEWSHOT_SEED = 1234  # lm-eval's own
KEPT_FIELDS = ("id", "group", "case", "topic")
ANSWER_SHOWN = 60  # characters
BEYOND_ONE = {"bleu", "chrf", "chrfpp", "ter", "perplexity", "weighted_perplexity", "bits_per_byte"}  # lm-eval's own


def _language_model(
    session: Session, folder: Path, data: SuiteData, context: Context, kept: dict[int, tuple[str, Completion]]
) -> Any:
    """lm-eval's model interface over a session. `kept` receives prompt and completion by a row's place among those that
    are asked, which lm-eval calls `doc_id` here; for a task of choices, the likeliest, as lm-eval's `acc` sees it: its
    `acc_norm` may see another, and which of them decides is asked of the record, not here."""
    from lm_eval.api.model import LM

    prompter = load_prompter(folder)

    def prompts_of(requests: Any) -> list[str]:
        return [render(session.tokenizer, prompter(r.args[0])) for r in requests]

    def told(requests: Any) -> Any:
        return lambda done: context.progress(done / len(requests), f"{done} of {len(requests)} rows")

    class EngineLM(LM):  # type: ignore[misc]
        cut = 0  # answers that a stop text of the task ended

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            prompts, limit = prompts_of(requests), data.max_new_tokens
            ends = [[s for s in as_list(r.args[1].get("until")) if s] for r in requests]
            alike = ends[0] if all(stops == ends[0] for stops in ends) else []
            keys = keys_of([_name(r.doc, r.doc_id) for r in requests])
            made = session.generate(prompts, limit, told(requests), alike, keys=keys)
            texts = [until(c.text, stops) for c, stops in zip(made, ends, strict=True)]
            for r, prompt, completion, text in zip(requests, prompts, made, texts, strict=True):
                if text != completion.text:  # what a server would have made, that looks at texts as they come
                    # of what it made the last token stands for the end, as a stop token would
                    tokens = completion.tokens - 1 if alike else _length(session, text)
                    completion = Completion(text, tokens, True)
                    self.cut += r.doc_id not in kept
                kept.setdefault(r.doc_id, (prompt, completion))  # of several draws the first, which is scored
            return texts

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            prompts, answers = prompts_of(requests), [r.args[1].lstrip(" ") for r in requests]  # as they are trained
            found = session.loglikelihood(list(zip(prompts, answers, strict=True)), told(requests))
            best: dict[int, float] = {}
            for r, prompt, answer, (chance, _) in zip(requests, prompts, answers, found, strict=True):
                if r.doc_id not in best or chance > best[r.doc_id]:
                    best[r.doc_id] = chance
                    kept[r.doc_id] = (prompt, Completion(answer, 0, True))
            return found

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError("perplexity of whole texts is not measured; choose a task that asks or generates")

    return EngineLM()


def _name(doc: Mapping[str, Any], at: int) -> str:
    """What a row is called: its id, or its place where it has none."""
    return str(doc.get("id", f"doc-{at}"))


def keys_of(names: Sequence[str]) -> list[int]:
    """The keys by which answers to rows of these names are drawn, whatever rows stand beside them: of a name that comes
    again, others each time."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        found.append(int.from_bytes(hashlib.sha256(f"{name} {seen[name]}".encode()).digest()[:8]) >> 1)  # of int64
        seen[name] += 1
    return found


def _length(session: Session, text: str) -> int:
    """The tokens of a text."""
    return len(session.tokenizer(text, add_special_tokens=False).input_ids)


def as_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def until(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of some stop texts."""
    return text[: min((at for s in stops if (at := text.find(s)) >= 0), default=len(text))]


def faults(knobs: Mapping[str, Any]) -> list[str]:
    """A line where `part` is no interval of the rows."""
    part = knobs.get("part")
    if part is None:
        return []
    numbers = isinstance(part, list) and [p for p in part if isinstance(p, int | float) and not isinstance(p, bool)]
    if numbers and len(part) == len(numbers) == 2 and 0 <= numbers[0] < numbers[1] <= 1:
        return []
    return [f"measure.quality.part={part!r}: give two shares, such as [0.0,0.25], or null for all rows"]


def in_part(rows: Sequence[Mapping[str, Any]], part: Sequence[float]) -> list[int]:
    """The positions of the rows whose place in the fixed random order lies in [part[0], part[1])."""
    return [at for at, row in enumerate(rows) if part[0] <= place(row) < part[1]]


def tasks_in(folder: Path, brought_along: bool = False) -> Any:
    """lm-eval's manager, without its hints, of the tasks in a suite's folder, or also of those that it brings along."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=str(folder), include_defaults=brought_along)


def task_of(data: SuiteData, name: str) -> tuple[Any, Any]:
    """lm-eval's task of that name, from the suite's folder or else one that it brings along, and the manager that knows
    it. The suite's evaluation rows, where it has such, take the place of those that the task reads by itself: what is
    scored is what was looked through for leaks. Raises whatever lm-eval and the suite's own code raise."""
    manager = tasks_in(data.folder)
    if name not in manager.all_tasks:  # one that lm-eval brings along; to index all of those takes 16 seconds
        manager = tasks_in(data.folder, brought_along=True)
    with beside(data.folder):
        task = manager.load(name)["tasks"][name]
    task.process_results = beside(data.folder)(task.process_results)
    sums = {name: beside(data.folder)(of_all) for name, of_all in task.aggregation().items()}
    task.aggregation = lambda: sums
    if data.evaluation:
        from datasets import Dataset

        rows = copy.deepcopy(list(data.evaluation))
        split = task.config.test_split or task.config.validation_split
        # a table would give objects within rows the fields of each other; what a task does to all rows asks for one
        task.dataset[split] = Dataset.from_list(rows) if task.config.process_docs else rows
    return task, manager


def stops_of(task: Any) -> tuple[str, ...]:
    """The texts at which a task ends answers."""
    return tuple(text for text in as_list((task.config.generation_kwargs or {}).get("until")) if text)


def ends_of(data: SuiteData, name: str) -> tuple[str, ...]:
    """`stops_of` the task of that name. Raises whatever lm-eval and the suite's own code raise."""
    return stops_of(task_of(data, name)[0])


def with_ends(data: SuiteData, suite: Component) -> SuiteData:
    """A suite's rows with the texts at which its own task ends answers, so that what is timed to its own end is as long
    as what is scored. Those of a task that lm-eval brings along are not looked up, which takes 16 seconds."""
    return replace(data, ends=ends_of(data, suite.params["task"])) if suite.params["task_file"] else data


def measure(
    session: Session, parent: Path, folder: Path, data: SuiteData, task: str, context: Context, out: Path,
    part: Sequence[float] | None = None,
) -> tuple[list[Measurement], dict[str, Json]]:  # fmt: skip
    """Fidelity first, then the suite, or a `part` of its rows, and the texts at which its task ended answers. Writes
    `rows.jsonl`, one object a row with prompt, output, reference and scores.

    Raises `BrokenArtifact` for a model that is not its parent any more, `UserError` for a part that holds no rows and
    for scorers that raise.
    """
    chosen = in_part(data.evaluation, part) if part else []
    if part and not chosen:
        raise UserError(
            f"measure.quality.part={list(part)}: no evaluation rows of {data.name} lie in it; make it larger"
        )
    from lm_eval.evaluator import evaluate

    rules, manager = task_of(data, task)
    closeness = fidelity(session.model, parent)
    kept: dict[int, tuple[str, Completion]] = {}
    if rules.get_config("num_fewshot") is None:
        rules.set_config("num_fewshot", 0)
    rules.set_fewshot_seed(seed=FEWSHOT_SEED)
    rules.process_results = _naming_rows(rules.process_results, data.folder)
    model = _language_model(session, folder, data, context, kept)
    results = evaluate(  # not `simple_evaluate`, which asks pip, git and the compiler for their versions each time
        model,
        manager.load([rules]),
        limit=None if part else len(data.evaluation) or data.evaluation_limit,
        samples={task: chosen} if part else None,
        log_samples=True,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    samples = results["samples"][task]
    samples = [s for s in samples if s["filter"] == samples[0]["filter"]]
    ordered = sorted(samples, key=lambda s: s["doc_id"])  # of a part, its place among all rows
    known = {row["id"]: row for row in data.evaluation}
    rows = [_row(sample, *kept[at], known, data.reply_field) for at, sample in enumerate(ordered)]
    with (out / ROWS_FILE).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    n = len(rows)
    lengths = [r["tokens"] for r in rows]
    asked = [_length(session, r["prompt"]) for r in rows]
    measured = [
        *summarize(rows, rules.aggregation(), rules.higher_is_better()),
        *closeness,
        Measurement("prompt_tokens/mean", sum(asked) / n, "tokens", "lower", n),
        Measurement("output_tokens/mean", sum(lengths) / n, "tokens", "lower", n),
        Measurement("truncated_share", sum(not r["finished"] for r in rows) / n, "share", "lower", n),
        *([Measurement("cut_share", model.cut / n, "share", "lower", n)] if model.cut else []),
    ]
    return measured, {"ends": list(stops_of(rules))}


def _naming_rows(score: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """A task's `process_results` that says on which row and answer it raised."""

    def named(doc: Any, results: Any) -> Any:
        try:
            return score(doc, results)
        except Exception as error:
            answer = str(next(iter(results), ""))
            raise UserError(
                f"{folder}: its scorers raise {type(error).__name__}: {error} on row {doc.get('id')!r}, answered "
                f"{answer[:ANSWER_SHOWN]!r}; mend them"
            ) from error

    return named


def summarize(
    rows: Sequence[Mapping[str, Any]], aggregations: Mapping[str, Any], higher: Mapping[str, bool]
) -> list[Measurement]:
    """One measurement a score over the rows that have it (a class's recall stands on the rows of that class alone),
    with an interval clustered by group: what the task's own aggregation makes of them, which is most often the mean, of
    log-likelihoods a perplexity, and of labels a macro-F1. Where rows drawn again never change that (a macro-F1 of 0)
    or are of one group they do not say how sure it is, and there is no interval."""
    found = []
    for name in dict.fromkeys(name for row in rows for name in row["scores"]):
        having = [row for row in rows if name in row["scores"]]
        items = [row["scores"][name] for row in having]
        groups = [group_of(row) for row in having]
        aggregation = aggregations.get(name, fmean)
        value = float(aggregation(items))
        if all(isinstance(item, int | float) and 0 <= item <= 1 for item in items) and isclose(value, fmean(items)):
            interval: Interval | None = share_interval(items, groups)
        else:
            drawn = bootstrap(items, aggregation, groups)
            interval = drawn if -inf < drawn.low < drawn.high < inf else None
        better = "lower" if higher.get(name) is False else "higher"  # lm-eval has None for what it does not know
        beyond = any(isinstance(item, int | float) and (item < 0 or item > 1) for item in items)
        points = beyond or getattr(aggregation, "__name__", "") in BEYOND_ONE
        unit = "share" if 0 <= value <= 1 and not points else "points"
        found.append(Measurement(f"quality/{name}", value, unit, better, len(items), interval))
    return found


def _row(
    sample: Mapping[str, Any], prompt: str, made: Completion, known: Mapping[str, Any], reply_field: str
) -> dict[str, Json]:
    """What is kept of a row. Its `reference`, and `references` where other answers are right too, are known of the
    suite's own rows alone."""
    doc = sample["doc"]
    message = sample["arguments"][0][0]
    scores = {m: sample[m] for m in sample["metrics"]}
    own = known.get(str(doc.get("id")), {})
    right = rights(own, reply_field)
    return {
        **{k: doc.get(k) for k in KEPT_FIELDS},
        "example_hash": example_hash(own or doc),
        "id": _name(doc, sample["doc_id"]),
        "prompt_hash": hashlib.sha256(prompt.encode()).hexdigest()[:16],
        "message": message,
        "prompt": prompt,
        "output": made.text,
        **({"reference": own[reply_field]} if isinstance(own.get(reply_field), str) else {}),
        **({REFERENCES: right} if right not in ([], [own.get(reply_field)]) else {}),
        "tokens": made.tokens,
        "finished": made.finished,
        "scores": plain(scores),
    }
