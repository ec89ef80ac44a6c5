"""A decode step of models whose layers are not a Llama's, on a GPU: engine `eager` beside `graph`, which runs their own
forward pass on slots. Random weights in the shapes of models, no download.

    python benchmarks/other_layers.py [NAME ...]

Prompts of 128 tokens; milliseconds of a step, medians of 32 steps of one row and of 16 of 32 rows, and of reading the
32 prompts; the limit is that of reading the weights (`benchmarks/decode_step.py`). Prints a JSON line a model.
"""

from __future__ import annotations

import json
import statistics
import sys
from itertools import pairwise
from typing import Any

import torch
import transformers

from harness.anatomy import weight_bytes
from harness.engine import graph
from harness.engine.eager import Eager
from harness.engine.graph import Graph
from harness.loading import Loaded
from harness.measure.roofline import bandwidth, step_bytes
from harness.types import Context
from tests.test_engine import tokenizer

CUDA = Context("cuda", "bfloat16", 0, lambda fraction, note: None)
PROMPTS = [chr(40 + i) * 128 for i in range(32)]
OWN = "llama 1.1b, own forward pass"
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3 1b": (
        "Gemma3Text",
        {"hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4,
         "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144, "sliding_window": 512},
    ),
    "phi-4-mini": (
        "Phi3",
        {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 24,
         "num_key_value_heads": 8, "vocab_size": 200064, "partial_rotary_factor": 0.75, "tie_word_embeddings": True},
    ),
    "granite 3 2b": (
        "Granite",
        {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 40, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 49155, "residual_multiplier": 0.22, "embedding_multiplier": 12.0,
         "logits_scaling": 8.0, "attention_multiplier": 0.015625},
    ),
    "qwen3 moe": (
        "Qwen3Moe",
        {"hidden_size": 1024, "intermediate_size": 3072, "moe_intermediate_size": 512, "num_hidden_layers": 12,
         "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "num_experts": 32,
         "num_experts_per_tok": 4, "vocab_size": 32000},
    ),
    "gemma2 2b": (
        "Gemma2",
        {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
         "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000},
    ),
    "gemma4, layers of 2304": (  # the defaults of its configuration
        "Gemma4Text",
        {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30, "num_attention_heads": 8,
         "num_key_value_heads": 4, "head_dim": 256, "global_head_dim": 512, "vocab_size": 262144},
    ),
    "gpt-oss, 12 layers of 8 experts": (
        "GptOss",
        {"hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 12, "num_attention_heads": 64,
         "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 8, "num_experts_per_tok": 4,
         "vocab_size": 32000},
    ),
    OWN: (
        "Llama",
        {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
         "num_key_value_heads": 4, "vocab_size": 32000},
    ),
}  # fmt: skip


def model_of(kind: str, sizes: dict[str, Any]) -> Any:
    """A model with random weights on the device, which never ends an answer."""
    config = getattr(transformers, f"{kind}Config")(bos_token_id=None, eos_token_id=0, pad_token_id=0, **sizes)
    torch.manual_seed(0)
    with torch.device("cuda"):
        made = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    made.generation_config.eos_token_id = None
    return made


def steps(session: Any) -> dict[str, float]:
    """Milliseconds of a step of one row, of one of all prompts, and of reading these."""
    alone = session.time_tokens(PROMPTS[0], 33)
    session.time_batch(PROMPTS, 17)
    read, *together = session.time_batch(PROMPTS, 17)
    found = {"1 row": statistics.median(b - a for a, b in pairwise(alone)), "32 rows": statistics.median(together)}
    return {name: round(1e3 * seconds, 3) for name, seconds in {**found, "reading": read}.items()}


def main() -> None:
    """Measures the shapes that were named, or all."""
    for name in sys.argv[1:] or SHAPES:
        model = model_of(*SHAPES[name])
        if name == OWN:
            graph.decoder_unfit = lambda model: "asked not to"  # type: ignore[assignment]
        eager = steps(Eager(batch_size=32, min_prefix=0).over(Loaded(model, tokenizer(), {}), CUDA))
        loaded = Loaded(model, tokenizer(), {})
        own = steps(Graph(batch_size=32).over(loaded, CUDA))
        limit = 1e3 * step_bytes(model, weight_bytes(model)) / bandwidth("cuda")
        told = {"model": name, "how": loaded.proof["how"], "eager": eager, "graph": own, "limit": round(limit, 3)}
        print(json.dumps(told), flush=True)
        del model, loaded
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
