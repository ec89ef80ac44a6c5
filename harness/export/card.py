"""The model card of an exported cell: front matter as the Hugging Face Hub reads it, and a README for people. Every
number in it is from the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.decide import is_quantized, policy_of, primary, timed
from harness.directory import quantization_of
from harness.escaping import markdown_text, visible
from harness.export.check import Checked, told
from harness.export.licences import Licence, hub_name
from harness.export.serving import libraries, vllm
from harness.licences import TEXTS
from harness.prompt import load_recipe
from harness.resources import resource
from harness.types import Json, Measurement, RunRecord
from harness.wording import number

SPEED = (
    ("ttft_ms/p95", "First token, p95"), ("itl_ms/p50", "Between tokens, p50"), ("e2e_ms/p50", "Whole {answer}, p50"),
    ("e2e_ms/p95", "Whole {answer}, p95"), ("throughput_tokens_per_s", "Throughput, batched"),
    ("goodput_requests_per_s", "Goodput"), ("memory_bytes/cuda_peak_process", "Peak memory, GPU"),
    ("memory_bytes/cuda_peak_reserved", "Peak memory, GPU reserved"),
    ("memory_bytes/peak_rss", "Peak memory, process"), ("weights_bytes", "Weights in memory"),
    ("disk_bytes", "Weights on disk"), ("cost_usd_per_1000", "Cost per 1,000 requests, full batches of {n}"),
    ("output_tokens/mean", "Answer length, mean"), ("truncated_share", "Answers cut off"),
)  # fmt: skip
OWN = "LICENCES.md"  # beside the texts of the base model
FIDELITY = (
    ("fidelity/perplexity_ratio", "Perplexity against the unquantized parent"),
    ("fidelity/token_agreement", "Same next token as the unquantized parent"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """What a card tells beside the record: why this cell, the licences, and how the check went."""

    reason: str
    model: Licence
    data: Licence
    checked: Checked


def front_matter(record: RunRecord, name: str, classes: Sequence[str], source: Source) -> str:
    """The YAML that the Hub reads, without its fences."""
    from huggingface_hub import EvalResult, ModelCardData

    task = "text-classification" if classes else "text-generation"
    results = [
        EvalResult(
            task_type=task, dataset_type=record.suite, dataset_name=record.suite, dataset_split="evaluation",
            dataset_revision=record.digest_of("quality", "rows") or None, metric_type=m.metric.partition("/")[2],
            metric_name=m.metric.partition("/")[2], metric_value=round(m.value, 6), metric_args=_evidence(m),
        )
        for m in _scores(record)
    ]  # fmt: skip
    base = hub_name(record)
    relation = relation_of(record)
    licence = source.model
    more: dict[str, Any] = {"base_model_relation": relation} if base and relation else {}
    data = ModelCardData(
        model_name=name, library_name="transformers", pipeline_tag=task, eval_results=results or None,
        license=licence.identifier or None, base_model=base or None,
        license_name=licence.name if licence.identifier == "other" else None, license_link=licence.link or None,
        tags=[record.adaptation, record.quantization, record.suite],
        **more,
    )  # fmt: skip
    return str(data.to_yaml())


def relation_of(record: RunRecord) -> str:
    """What the weights are to those of the base model, as the Hub has it; empty where they are the same."""
    adapted = record.steps.get("adapt", {}).get("facts") or {}
    return "finetune" if adapted.get("trained_parameters") else "quantized" if quantized_here(record) else ""


def quantized_here(record: RunRecord) -> bool:
    """Whether the harness quantized the weights, and they did not come so."""
    facts = record.steps.get("quantize", {}).get("facts") or {}
    return is_quantized(record) and facts.get("replaced_modules", 0) is not None


def _evidence(m: Measurement) -> dict[str, Json]:
    """The rows behind a score and its interval."""
    around = {"interval_95": [round(m.interval.low, 6), round(m.interval.high, 6)]} if m.interval else {}
    return {"rows": m.n, **around}


def _scores(record: RunRecord) -> list[Measurement]:
    return [m for m in record.measurements if m.metric.startswith("quality/")]


def _line(title: str, m: Measurement) -> dict[str, str]:
    low, high = (number(m.interval.low, m.unit), number(m.interval.high, m.unit)) if m.interval else ("", "")
    return {
        "title": title,
        "value": number(m.value, m.unit),
        "interval": f"{low} to {high}" if low else "–",
        "n": f"{m.n:,}",
    }


def view(folder: Path, record: RunRecord, deployment: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Everything that the card shows, as plain values."""
    recipe = load_recipe(folder)
    facts = record.steps.get("quantize", {}).get("facts") or {}
    stored, classes = quantization_of(folder), deployment["classes"]
    quantized = quantized_here(record)
    compared = quantized and any(record.value(name) for name, _ in FIDELITY)
    trained = record.steps.get("adapt", {}).get("facts") or {}
    versions: Mapping[str, str] = record.environment.get("versions", {})
    decides, answer = primary(record, policy_of([record])), timed([record]) or "answer"
    searched = {"bm25": "bm25s", "dense": "sentence-transformers"}
    finders = [library for name, library in searched.items() if (folder / "retrieval" / name).is_dir()]
    needed = ("torch", "transformers", "accelerate", *libraries(stored), *finders)
    texts = sorted({path.name for pattern in TEXTS for path in folder.glob(pattern)} - {OWN})
    return {
        "name": deployment["served_as"], "record": record, "source": source, "deployment": deployment, "recipe": recipe,
        "classes": classes, "checked": told(source.checked, record), "primary": decides,
        "scores": [_line(m.metric.partition("/")[2], m) for m in _scores(record)],
        "speed": [_line(t.format(answer=answer, n=m.n), m) for name, t in SPEED + FIDELITY * compared
                  if (m := record.value(name))],
        "quantized": quantized, "compared": compared,
        "note": record.params("model").get("note", ""), "trained": trained, "facts": facts,
        "knobs": {k: v for part in ("adaptation", "quantization") for k, v in record.params(part).items()},
        "method": stored.get("quant_method", ""), 
        "vllm": vllm(stored, classes, deployment["served_as"], str(facts.get("stored_dtype", ""))),
        "adapter": (folder / "adapter").is_dir(), "base": hub_name(record), "environment": record.environment,
        "requirements": [f"{n}=={versions[n].partition('+')[0]}" if n in versions else n for n in needed],
        "grammar": deployment["constrained"], "suite": record.params("suite"), "texts": texts,
    }  # fmt: skip


def write(folder: Path, record: RunRecord, deployment: Mapping[str, Any], source: Source) -> None:
    """Writes `README.md`, `LICENCES.md` and `requirements.txt` into a folder that is otherwise complete."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(resource("reports") / "deployable"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=False, keep_trailing_newline=True,
    )  # fmt: skip
    templates.filters |= {
        "md": markdown_text,
        "code": lambda text: f"`{' '.join(visible(text).split()).replace('`', '')}`",
    }
    values = view(folder, record, deployment, source)
    front = front_matter(record, values["name"], values["classes"], source)
    card = templates.get_template("README.md.j2").render(values)
    (folder / "README.md").write_text(f"---\n{front}\n---\n\n{card}", encoding="utf-8")
    (folder / OWN).write_text(templates.get_template("LICENCES.md.j2").render(values), encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join(values["requirements"]) + "\n", encoding="utf-8")
