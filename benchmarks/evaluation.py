"""Rows a second of an evaluation: this repository's engines beside lm-eval's `hf` model at its best batch size.

    python benchmarks/evaluation.py MODEL_FOLDER [--rows 48] [--tokens 64] [--batches 1 8 16 32] [--peer-batches ...]
        [--engines eager graph] [--suite NAME]

Prompts of 128 tokens that share no prefix, or with `--suite` that suite's evaluation rows under the recipe of an
artifact of the store, as a grid evaluates them; greedy, the same model and dtype, in one process, one after the other;
each is measured on `--rows` rows, after a batch of others has warmed it up. Prints a JSON line a measurement.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from omegaconf import OmegaConf

from harness.engine.eager import Eager
from harness.engine.graph import Graph
from harness.environment import detect
from harness.grid import component
from harness.loading import load as load_model
from harness.measure.latency import prompts_of
from harness.resources import resource
from harness.suite import load
from harness.types import Context

PROMPT = 128
ENGINES: dict[str, Any] = {"eager": Eager, "graph": Graph}


def prompts(tokenizer: Any, rows: int) -> list[str]:
    """Texts that encode to about `PROMPT` tokens each, all different from their first token on."""
    made = torch.Generator().manual_seed(0)
    words = [w for i in range(2000, 12000) if (w := tokenizer.decode([i])).strip().isalpha() and w.startswith(" ")]
    texts = []
    for _ in range(rows):
        chosen = torch.randint(len(words), (PROMPT,), generator=made).tolist()
        texts.append("".join(words[i] for i in chosen).strip())
    return texts


def of_suite(name: str, folder: Path, session: Any, rows: int) -> list[str]:
    """The rendered prompts of a suite's evaluation rows."""
    with initialize_config_dir(str(resource("conf").resolve()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config", [f"suite={name}", "profile=thorough"]), resolve=True)
    return prompts_of(session, folder, load(component(config["suite"])), rows)


def timed(rows: list[str], batch: int, run: Callable[[list[str]], list[int]]) -> dict[str, float]:
    """Seconds of the first half of the rows, and the tokens made in them, after a batch of the others."""
    half = len(rows) // 2
    run(rows[half : half + min(half, batch)])
    start = time.perf_counter()
    tokens = sum(run(rows[:half]))
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 3), "rows_per_s": round(half / seconds, 3),
        "tokens_per_s": round(tokens / seconds, 1), "peak_gb": round(peak(), 2),
    }  # fmt: skip


def peak() -> float:
    """Gigabytes that PyTorch has held at most on a GPU since the last call; 0 on a CPU."""
    if not torch.cuda.is_available():
        return 0.0
    most = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return most


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--suite")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--peer-batches", type=int, nargs="+", help="of lm-eval's hf model; as --batches if not given")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    chosen = parser.parse_args()
    environment = detect()
    context = Context(environment.device, environment.dtype, 0, lambda fraction, note: None)
    print(
        json.dumps({"hardware": environment.hardware, "dtype": environment.dtype, "threads": torch.get_num_threads()})
    )
    best: dict[str, float] = {}
    for name in chosen.engines:
        for batch in chosen.batches:
            session = ENGINES[name](batch_size=batch).start(chosen.folder, context)
            rows = (
                of_suite(chosen.suite, chosen.folder, session, 2 * chosen.rows)
                if chosen.suite
                else prompts(session.tokenizer, 2 * chosen.rows)
            )

            def ours(texts: list[str], session: Any = session) -> list[int]:
                return [c.tokens for c in session.generate(texts, chosen.tokens)]

            found = timed(rows, batch, ours)
            print(json.dumps({"engine": name, "batch": batch, **found}), flush=True)
            best[name] = max(best.get(name, 0.0), found["rows_per_s"])
            tokenizer = session.tokenizer
            del session, ours
            gc.collect()
    model = load_model(chosen.folder, context, packs=False).model
    model.set_attn_implementation("sdpa")
    for batch in chosen.peer_batches or chosen.batches:
        peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)

        def theirs(texts: list[str], peer: Any = peer) -> list[int]:
            asked = {"until": ["\x00"], "max_gen_toks": chosen.tokens, "do_sample": False}
            requests = [Instance("generate_until", {}, (t, asked), n) for n, t in enumerate(texts)]
            return [len(tokenizer(t).input_ids) for t in peer.generate_until(requests, disable_tqdm=True)]

        found = timed(rows, batch, theirs)
        print(json.dumps({"engine": "lm-eval hf", "batch": batch, **found}), flush=True)
        best["hf"] = max(best.get("hf", 0.0), found["rows_per_s"])
    print(json.dumps({f"{name}_over_hf": round(best[name] / best["hf"], 2) for name in chosen.engines}))


if __name__ == "__main__":
    main()
