"""A made-up grid of fifteen cells with rows, fixed by a seed. No number here was measured."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.statistics import quantile_interval, wilson
from harness.types import Interval, Measurement, RunRecord, Status

ADAPTATIONS = ("prompt_rag", "lora", "full_ft")
QUANTIZATIONS = ("fp16", "int8", "gptq", "awq", "dynamic")
RULES = ("greeting", "acknowledgement", "no_blame", "next_step", "sign_off", "length", "wording")
SKILL = {"prompt_rag": 0.80, "lora": 0.965, "full_ft": 0.97}
LOSS = {"fp16": 0.0, "int8": 0.0, "gptq": 0.012, "awq": 0.01, "dynamic": 0.004}
SPEED = {"fp16": 1.0, "int8": 1.45, "gptq": 1.2, "awq": 1.25, "dynamic": 0.7}
BYTES = {"fp16": 269e6, "int8": 166e6, "gptq": 118e6, "awq": 121e6, "dynamic": 163e6}
CLASS = {"fp16": "Linear", "int8": "Linear8bitLt", "gptq": "TorchQuantLinear", "awq": "AwqTorchQuantLinear"}
POLICY = {
    "name": "balanced", "metric": None, "min_quality": None, "max_p95_e2e_ms": None, "max_memory_bytes": None,
    "margin": 0.05, "objective": "cost_usd_per_1000",
}  # fmt: skip
ENVIRONMENT = {
    "device": "cpu", "hardware": "Example CPU, 2 cores", "dtype": "float32", "cpu_count": 2, "memory_gib": 15.6,
    "os": "Linux x86_64", "python": "3.11.9", "threads": 2,
    "versions": {"torch": "2.9.0", "transformers": "5.1.0", "peft": "0.18.0", "gptqmodel": "6.0.0"},
}  # fmt: skip


def cell_id(adaptation: str, quantization: str) -> str:
    return f"smollm2_135m/{adaptation}/{quantization}/support_tone"


def ids() -> list[str]:
    return [cell_id(a, q) for a in ADAPTATIONS for q in QUANTIZATIONS]


def rows(adaptation: str, quantization: str, n: int = 96) -> list[dict[str, Any]]:
    """Rows whose luck is shared by all cells, so that pairs agree on most rows as real ones do."""
    made = []
    for number in range(n):
        shared = random.Random(f"row {number}")
        own = random.Random(f"{adaptation} {quantization} {number}")
        skill = SKILL[adaptation] - LOSS[quantization]
        scores = {rule: int((0.85 * shared.random() + 0.15 * own.random()) < skill) for rule in RULES}
        scores["style"] = int(all(scores.values()))
        scores["facts"] = int((0.8 * shared.random() + 0.2 * own.random()) < 0.86 - LOSS[quantization])
        scores["good"] = int(scores["style"] and scores["facts"])
        name = ("Ewa", "Mikhail", "Ines", "Tomasz")[number % 4]
        made.append(
            {
                "id": f"row-{number:03}", "group": f"group-{number}", "case": ("plain", "angry", "vague")[number % 3],
                "prompt_hash": f"{number:016x}",
                "prompt": f"The parcel that I ordered on 3 May has not come. Where is it, and who pays? {name}",
                "output": f"Hello {name},\n\nThank you for telling us. I am sorry that your parcel is late."
                + ("\n\nNext step: We will write to you within 1 business day." if scores["next_step"] else "")
                + ("\n\nWarm regards,\nThe Care Team" if scores["sign_off"] else ""),
                "tokens": 60 + number % 17, "finished": True, "scores": scores,
            }
        )  # fmt: skip
    return made


def _measurements(adaptation: str, quantization: str, made: list[dict[str, Any]]) -> tuple[Measurement, ...]:
    n = len(made)
    found = []
    for score in made[0]["scores"]:
        passed = sum(row["scores"][score] for row in made)
        found.append(Measurement(f"quality/{score}", passed / n, "share", "higher", n, wilson(passed, n)))
    rng = random.Random(f"{adaptation} {quantization}")
    slow = SPEED[quantization] * (1.4 if adaptation == "prompt_rag" else 1.0)
    for name, middle in (("ttft_ms", 240 * slow), ("itl_ms", 38 * SPEED[quantization]), ("e2e_ms", 2900 * slow)):
        samples = tuple(middle * rng.lognormvariate(0, 0.12) for _ in range(24))
        for text, q in (("p50", 0.5), ("p95", 0.95)):
            value = sorted(samples)[int(q * 23)]
            found.append(
                Measurement(f"{name}/{text}", value, "ms", "lower", 24, quantile_interval(samples, q), samples)
            )
    size = BYTES[quantization]
    cost = 0.021 * slow + {"prompt_rag": 0, "lora": 0.0011, "full_ft": 0.0023}[adaptation]
    build = {"fp16": 2, "int8": 9, "gptq": 71, "awq": 143, "dynamic": 4}[quantization]
    plain = (
        ("throughput_tokens_per_s", 48 / slow, "tokens/s", "higher"),
        ("memory_bytes/peak_rss", 7.2e8 + 2 * size, "bytes", "lower"),
        ("weights_bytes", size * (2 if quantization == "fp16" else 1.1), "bytes", "lower"),
        ("disk_bytes", size, "bytes", "lower"),
        ("build_seconds", build + (0 if adaptation == "prompt_rag" else 190.0), "s", "lower"),
        ("output_tokens/mean", 68.0, "tokens", "lower"),
        ("truncated_share", 0.01, "share", "lower"),
    )
    found += [Measurement(name, value, unit, better, 1) for name, value, unit, better in plain]
    found.append(Measurement("cost_usd_per_1000", cost, "USD", "lower", 24))
    if quantization != "fp16":
        found.append(Measurement("fidelity/token_agreement", 0.99 - 4 * LOSS[quantization], "share", "higher", 16))
        found.append(Measurement("fidelity/perplexity_ratio", 1 + 3 * LOSS[quantization], "ratio", "lower", 16))
    return tuple(found)


def _steps(adaptation: str, quantization: str) -> dict[str, Any]:
    curve = [{"step": 0, "epoch": 0.0, "eval_loss": 2.4}]
    for at in range(1, 40):
        curve.append({"step": at, "epoch": at / 13, "loss": 0.9 + 1.5 * 0.92**at})
        if at % 13 == 0:
            curve.append({"step": at, "epoch": at / 13, "eval_loss": 1.0 + 1.3 * 0.93**at})
    trained: dict[str, Any] = {"trained_parameters": 4_884_480 if adaptation == "lora" else 134_515_008}
    trained["loss_curve"] = curve
    adapt = {"trained_parameters": 0, "prompt": {"examples": 2, "retrieval": "bm25", "top_k": 1}}
    kind = CLASS.get(quantization, "DynamicInt8Linear")
    proof = {
        "replaced_modules": 0 if quantization == "fp16" else 210, "left_modules": 1,
        "linear_classes": {kind: 210, "Linear": 1} if quantization != "fp16" else {"Linear": 211},
    }  # fmt: skip

    def step(kind: str, facts: Any, shared: int, seconds: float = 3.0) -> dict[str, Any]:
        key = f"{abs(hash_of(kind, adaptation, quantization if shared == 1 else '')):016x}"[:16]
        return {"key": key, "seconds": seconds, "bytes": int(BYTES[quantization]), "facts": facts, "shared_by": shared}

    return {
        "base": step("base", {"source": "example.gguf", "licence": "apache-2.0", "parameters": 134_515_008}, 15),
        "adapt": step("adapt", adapt if adaptation == "prompt_rag" else trained, 5, 188.0),
        "quantize": step("quantize", proof, 1, 20.0),
        "quality": step("quality", {}, 1, 60.0),
        "latency": step("latency", {}, 1, 30.0),
    }


def hash_of(*parts: str) -> int:
    return random.Random(" ".join(parts)).getrandbits(64)


def record(adaptation: str, quantization: str, made: list[dict[str, Any]] | None = None, **changes: Any) -> RunRecord:
    """A cell that ended ok, with `changes` to its fields."""
    made = rows(adaptation, quantization) if made is None else made
    config: Mapping[str, Any] = {
        "model": {
            "name": "smollm2_135m", "target": "harness.models.gguf.Gguf",
            "params": {"note": "The fp16 parent is itself dequantized from Q4_1."},
        },
        "adaptation": {"name": adaptation, "target": "harness.adapt.X", "params": {"rank": 16}},
        "quantization": {"name": quantization, "target": "harness.quantize.X", "params": {}},
        "suite": {"name": "support_tone", "target": "", "params": {"primary": "good", "eval_rows": 96}},
        "engine": {"name": "eager", "target": "harness.engine.eager.Eager", "params": {}},
        "measure": {
            "name": "standard", "target": "",
            "params": {"latency": {"requests": 24, "output_tokens": 32, "batch_size": 8}},
        },
        "policy": POLICY,
        "price": {
            "name": "cpu", "hardware": "2 vCPU", "usd_per_hour": 0.085, "source": "https://example.com/prices",
            "date": "2025-11-01", "volume_requests": 100_000,
        },
        "profile": "standard",
    }  # fmt: skip
    whole = RunRecord(
        schema=1, id=cell_id(adaptation, quantization), status=Status.OK, reason="", model="smollm2_135m",
        adaptation=adaptation, quantization=quantization, suite="support_tone", seed=0, profile="standard",
        measurements=_measurements(adaptation, quantization, made),
        not_measured={"memory_bytes/cuda_peak_allocated": "no CUDA device"},
        steps=_steps(adaptation, quantization), environment=ENVIRONMENT, config=config,
    )  # fmt: skip
    cost = whole.value("cost_usd_per_1000")
    assert cost
    rate = Measurement("throughput_requests_per_s", 1.0, "req/s", "higher", 24)
    return replace(costing(replace(whole, measurements=(*whole.measurements, rate)), cost.value), **changes)


def costing(one: RunRecord, usd: float) -> RunRecord:
    """A record with the rate at which 1,000 requests cost so much, and its price as recorded."""
    price = one.config["price"]
    built = sum(one.steps[k]["seconds"] for k in ("base", "adapt", "quantize")) * price["usd_per_hour"] / 3600
    rate = 1000 * price["usd_per_hour"] / 3600 / (usd - 1000 * built / price["volume_requests"])
    return with_value(with_value(one, "throughput_requests_per_s", rate), "cost_usd_per_1000", usd)


def ended(adaptation: str, quantization: str, status: Status, reason: str) -> RunRecord:
    """A cell that left no numbers."""
    return record(adaptation, quantization, status=status, reason=reason, measurements=(), not_measured={}, steps={})


def grid() -> tuple[list[RunRecord], dict[str, list[dict[str, Any]]]]:
    """All fifteen cells ok, with the rows of each."""
    made = {cell_id(a, q): rows(a, q) for a in ADAPTATIONS for q in QUANTIZATIONS}
    return [record(a, q, made[cell_id(a, q)]) for a in ADAPTATIONS for q in QUANTIZATIONS], made


def with_value(
    one: RunRecord, metric: str, value: float, interval: Interval | None = None, n: int | None = None
) -> RunRecord:
    """A record with one number changed."""
    changed = tuple(
        replace(m, value=value, interval=interval, samples=(), n=n or m.n) if m.metric == metric else m
        for m in one.measurements
    )
    return replace(one, measurements=changed)


def with_spread(one: RunRecord, by: float) -> RunRecord:
    """A record whose timed steps, and so its cost, are apart by this share on either side."""
    changed = tuple(
        replace(m, samples=tuple(m.value * (1 + s) for s in (-by, 0.0, by)))
        if m.metric == "throughput_tokens_per_s" else m
        for m in one.measurements
    )  # fmt: skip
    return replace(one, measurements=changed)
