"""One model timed by optimum-benchmark and by this repository, on the same machine in the same run.

    python benchmarks/peers.py MODEL_FOLDER [--tokens 32] [--batch 4] [--times 5]

Needs `pip install optimum-benchmark` beside the harness. Ours are asked the prompts of `evaluation.py`, greedy, stop
tokens ignored; optimum-benchmark its own random tokens, as many. Prints a JSON line a measurement: milliseconds to read
the prompts and make the first tokens, milliseconds a step after that, and peak memory.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from evaluation import PROMPT, prompts

from harness.engine.eager import Eager
from harness.engine.graph import Graph
from harness.environment import detect
from harness.measure.memory import peak_of_loading, peak_rss_bytes
from harness.types import Context


def theirs(folder: Path, device: str, dtype: str, chosen: argparse.Namespace, batch: int) -> dict[str, Any]:
    """What optimum-benchmark reports."""
    import transformers

    if not hasattr(transformers, "SpecialTokensMixin"):  # its last version, 0.6.0, asks for it; transformers 5 has none
        transformers.SpecialTokensMixin = transformers.PreTrainedTokenizerBase
    from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, InlineConfig, PyTorchConfig

    scenario = InferenceConfig(
        input_shapes={"batch_size": batch, "sequence_length": PROMPT}, memory=True, latency=True,
        generate_kwargs={"max_new_tokens": chosen.tokens, "min_new_tokens": chosen.tokens}, iterations=chosen.times,
        duration=0, warmup_runs=2,
    )  # fmt: skip
    backend = PyTorchConfig(
        model=str(folder), device=device, torch_dtype=dtype, task="text-generation", library="transformers"
    )
    config = BenchmarkConfig(name="peer", launcher=InlineConfig(), scenario=scenario, backend=backend)
    report = Benchmark.launch(config)
    found = {"prefill_ms": 1e3 * report.prefill.latency.p50, "step_ms": 1e3 * report.per_token.latency.p50}
    memory = report.decode.memory
    peak = memory.max_allocated if device == "cuda" else memory.max_ram
    return {**found, "peak_gb": peak / 1e3}


def ours(engine: Any, folder: Path, context: Context, chosen: argparse.Namespace, batch: int) -> dict[str, Any]:
    """What our engine's own probes measure: `time_tokens` for one row, `time_batch` for more."""
    session = engine.start(folder, context)
    texts = prompts(session.tokenizer, batch)
    peak_of_loading(context.device)
    first, steps = [], []
    for _ in range(chosen.times + 2):
        if batch == 1:
            times = session.time_tokens(texts[0], chosen.tokens)
            first.append(times[0])
            steps.append([b - a for a, b in pairwise(times)])
        else:
            prefill, *rest = session.time_batch(texts, chosen.tokens)
            first.append(prefill)
            steps.append(rest)
    every = [s for run in steps[2:] for s in run]
    peak = torch.cuda.max_memory_allocated() if context.device == "cuda" else peak_rss_bytes()
    return {"prefill_ms": 1e3 * median(first[2:]), "step_ms": 1e3 * median(every), "peak_gb": peak / 1e9}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name, value in (("tokens", 32), ("batch", 4), ("times", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    here = detect()
    context = Context(here.device, here.dtype, 0, lambda fraction, note: None)
    shape = {"prompt": PROMPT, "tokens": chosen.tokens, "threads": torch.get_num_threads()}
    print(json.dumps({"hardware": here.hardware, "dtype": here.dtype, **shape}), flush=True)
    for batch in (1, chosen.batch):
        for name, engine in (("eager", Eager(min_prefix=0)), ("graph", Graph())):
            told = {k: round(v, 3) for k, v in ours(engine, chosen.folder, context, chosen, batch).items()}
            print(json.dumps({"by": f"harness {name}", "batch": batch, **told}), flush=True)
        told = {k: round(v, 3) for k, v in theirs(chosen.folder, here.device, here.dtype, chosen, batch).items()}
        print(json.dumps({"by": "optimum-benchmark", "batch": batch, **told}), flush=True)


if __name__ == "__main__":
    main()
