"""Quality, through lm-eval: the suite's own task file, scored row by row on what the engine generates."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.engine.eager import EagerSession
from harness.measure.fidelity import fidelity
from harness.prompt import load_prompter, render
from harness.statistics import bootstrap, share_interval
from harness.types import Context, Json, Measurement, SuiteData, plain

ROWS_FILE = "rows.jsonl"
KEPT_FIELDS = ("id", "group", "case", "topic")


def _language_model(
    session: EagerSession, folder: Path, data: SuiteData, context: Context, kept: dict[str, Any]
) -> Any:
    """lm-eval's model interface over a session; `kept` receives prompt and completion by message."""
    from lm_eval.api.model import LM

    prompter = load_prompter(folder)

    class EngineLM(LM):  # type: ignore[misc]
        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            messages = [r.args[0] for r in requests]
            prompts = [render(session.tokenizer, prompter(m)) for m in messages]

            def told(done: int) -> None:
                context.progress(done / len(prompts), f"{done} of {len(prompts)} rows")

            made = session.generate(prompts, data.max_new_tokens, told, data.output)
            kept.update(zip(messages, zip(prompts, made, strict=True), strict=True))
            return [c.text for c in made]

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            raise NotImplementedError("this engine generates; choose a task with output_type: generate_until")

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError("this engine generates; choose a task with output_type: generate_until")

    return EngineLM()


def measure(
    session: EagerSession, parent: Path, folder: Path, data: SuiteData, task: str, context: Context, out: Path
) -> list[Measurement]:
    """Fidelity first, then the suite. Writes `rows.jsonl`, one object a row with prompt, output and scores.

    Raises `BrokenArtifact` for a model that is not its parent any more.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(data.folder), include_defaults=False)
    rules = manager.load(task)["tasks"][task]
    closeness = fidelity(session.model, parent)
    kept: dict[str, Any] = {}
    results = simple_evaluate(
        model=_language_model(session, folder, data, context, kept),
        tasks=[task],
        task_manager=manager,
        limit=len(data.evaluation),
        log_samples=True,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    samples = results["samples"][task]
    rows = [_row(sample, kept, data) for sample in sorted(samples, key=lambda s: s["doc_id"])]
    with (out / ROWS_FILE).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    n = len(rows)
    lengths = [r["tokens"] for r in rows]
    return [
        *summarize(rows, rules.aggregation(), rules.higher_is_better()),
        *closeness,
        Measurement("output_tokens/mean", sum(lengths) / n, "tokens", "lower", n),
        Measurement("truncated_share", sum(not r["finished"] for r in rows) / n, "share", "lower", n),
    ]


def summarize(
    rows: Sequence[Mapping[str, Any]], aggregations: Mapping[str, Any], higher: Mapping[str, bool]
) -> list[Measurement]:
    """One measurement a score over the rows that have it (a class's recall stands on the rows of that class alone),
    with an interval clustered by group. A score that is no number a row, such as the labels of a macro-F1, is what
    lm-eval's aggregation makes of all rows."""
    found = []
    for name in dict.fromkeys(name for row in rows for name in row["scores"]):
        having = [row for row in rows if name in row["scores"]]
        items = [row["scores"][name] for row in having]
        groups = [row.get("group") or ("row", row["id"]) for row in having]
        if all(isinstance(item, int | float) for item in items):
            value, interval = sum(items) / len(items), share_interval(items, groups)
        else:
            value, interval = aggregations[name](items), bootstrap(items, aggregations[name], groups)
        better = "higher" if higher.get(name, True) else "lower"
        found.append(Measurement(f"quality/{name}", value, "share", better, len(items), interval))
    return found


def _row(sample: Mapping[str, Any], kept: Mapping[str, Any], data: SuiteData) -> dict[str, Json]:
    doc = sample["doc"]
    prompt, made = kept[doc[data.message_field]]
    scores = {m: sample[m] for m in sample["metrics"]}
    return {
        **{k: doc.get(k) for k in KEPT_FIELDS},
        "prompt_hash": hashlib.sha256(prompt.encode()).hexdigest()[:16],
        "message": doc[data.message_field],
        "prompt": prompt,
        "output": made.text,
        "tokens": made.tokens,
        "finished": made.finished,
        "scores": plain(scores),
    }
