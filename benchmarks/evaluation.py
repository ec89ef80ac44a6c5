"""Rows a second of an evaluation: this repository's engines beside lm-eval's `hf` model at its best batch size.

    python benchmarks/evaluation.py MODEL_FOLDER [--rows 48] [--tokens 64] [--batches 1 8 16 32] [--peer-batches ...]
        [--engines eager graph hf hf-there] [--rounds 3] [--suite NAME]

Prompts of 128 tokens that share no prefix, or with `--suite` that suite's evaluation rows under the recipe of an
artifact of the store, as a grid evaluates them; greedy, the same model and dtype, one after the other. Each is measured
in a process of its own, on `--rows` rows, after a batch of others has warmed it up: the engines in the environment that
the harness gives its steps, lm-eval in this one (`hf`) and, if asked for, in the harness's (`hf-there`). Prints a JSON
line a measurement; rates are compared by the best median of each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from omegaconf import OmegaConf

from harness.configured import component
from harness.engine.eager import Eager
from harness.engine.graph import Graph
from harness.environment import Environment, detect
from harness.launch import CHILD_ENVIRONMENT
from harness.loading import load as load_model
from harness.measure.latency import prompts_of
from harness.resources import resource
from harness.suite import load
from harness.types import Context

PROMPT = 128
ENGINES: dict[str, Any] = {"eager": Eager, "graph": Graph}
PEERS = ("hf", "hf-there")


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
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    tokens = sum(run(rows[:half]))
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
    return {
        "seconds": round(seconds, 3), "rows_per_s": round(half / seconds, 3),
        "tokens_per_s": round(tokens / seconds, 1), "peak_gb": round(peak, 2),
    }  # fmt: skip


def measure(chosen: argparse.Namespace, name: str, batch: int, environment: Environment) -> dict[str, float]:
    """One engine at one batch size, in this process."""
    context = Context(environment.device, environment.dtype, 0, lambda fraction, note: None)
    of_peer = name in PEERS
    loaded: Any = (
        load_model(chosen.folder, context, packs=False)
        if of_peer
        else ENGINES[name](batch_size=batch).start(chosen.folder, context)
    )
    tokenizer = loaded.tokenizer
    rows = (
        of_suite(chosen.suite, chosen.folder, loaded, 2 * chosen.rows)
        if chosen.suite
        else prompts(tokenizer, 2 * chosen.rows)
    )
    if not of_peer:
        return timed(rows, batch, lambda texts: [c.tokens for c in loaded.generate(texts, chosen.tokens)])
    loaded.model.set_attn_implementation("sdpa")
    peer = HFLM(pretrained=loaded.model, tokenizer=tokenizer, batch_size=batch)

    def theirs(texts: list[str]) -> list[int]:
        asked = {"until": ["\x00"], "max_gen_toks": chosen.tokens, "do_sample": False}
        requests = [Instance("generate_until", {}, (t, asked), n) for n, t in enumerate(texts)]
        return [len(tokenizer(t).input_ids) for t in peer.generate_until(requests, disable_tqdm=True)]

    return timed(rows, batch, theirs)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--suite")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--peer-batches", type=int, nargs="+", help="of lm-eval's hf model; as --batches if not given")
    parser.add_argument("--engines", nargs="+", choices=(*ENGINES, *PEERS), default=["eager", "graph", "hf"])
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "BATCH"), help="measure only this, in this process")
    chosen = parser.parse_args()
    environment = detect()
    if chosen.one:
        name, batch = chosen.one[0], int(chosen.one[1])
        print(json.dumps({"engine": name, "batch": batch, **measure(chosen, name, batch, environment)}))
        return
    print(
        json.dumps({"hardware": environment.hardware, "dtype": environment.dtype, "threads": torch.get_num_threads()})
    )
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(chosen.rounds):
        for name in chosen.engines:
            for batch in chosen.peer_batches if name in PEERS and chosen.peer_batches else chosen.batches:
                there = {**os.environ, **({} if name == "hf" else CHILD_ENVIRONMENT[environment.device])}
                command = [sys.executable, *sys.argv, "--one", name, str(batch)]
                said = subprocess.run(command, env=there, stdout=subprocess.PIPE, text=True, check=True).stdout
                line = said.splitlines()[-1]
                print(line, flush=True)
                found.setdefault((name, batch), []).append(json.loads(line)["rows_per_s"])
    best = {name: max(median(rates) for (who, _), rates in found.items() if who == name) for name, _ in found}
    peers = [name for name in best if name in PEERS]
    print(json.dumps({f"{a}_over_{b}": round(best[a] / best[b], 2) for b in peers for a in best if a not in PEERS}))


if __name__ == "__main__":
    main()
