"""How near the memory limit a decode step comes, on a GPU: random weights in the shape of a model, no download.

    python benchmarks/decode_step.py 1b 8b [--weights fp16 gptq-marlin ...] [--group 128] [--generate] [--out FILE]

The limit is the bytes that a step must read of its weights alone (without the embedding table) over the bandwidth of a
device-to-device copy measured in the same process. Prints a JSON line a measurement.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, StaticCache

from harness.anatomy import weight_bytes
from harness.engine.serving import serve
from harness.engine.slots import DecoderSlots, uncapturable
from harness.loading import load
from harness.measure.roofline import bandwidth, step_bytes
from harness.quantize.dynamic import Dynamic
from harness.quantize.int8 import Int8
from harness.types import Context, Request

SHAPES = {
    "135m": (576, 1536, 30, 9, 3, 49152),
    "1b": (2048, 5632, 22, 32, 4, 32000),
    "8b": (4096, 14336, 32, 32, 8, 128256),
}
WEIGHTS = ("fp16", "int8", "int8-outliers", "dynamic", "gptq-triton", "gptq-marlin", "awq-triton", "awq-marlin")
PROMPT, STEPS = 128, 128
CUDA = Context("cuda", "float16", 0, lambda fraction, note: None)


def model_of(shape: str, dtype: torch.dtype) -> LlamaForCausalLM:
    """A Llama with random weights on the device."""
    hidden, inner, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, max_position_embeddings=4096,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        made = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return made.eval()


def quantized(model: LlamaForCausalLM, weights: str, group: int) -> Any:
    """The same model quantized by the harness and loaded as any cell is; 4-bit weights are drawn at random."""
    made: dict[str, Any] = {"int8": Int8(threshold=0.0), "int8-outliers": Int8(), "dynamic": Dynamic()}
    if weights not in made:
        method, _, kernel = weights.partition("-")
        return packed(model, method, kernel, group)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/plain")
        words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
        made[weights](Path(folder, "plain"), (), Path(folder, "quantized"), CUDA)
        words.save_pretrained(f"{folder}/quantized")
        return load(Path(folder, "quantized"), CUDA).model


def packed(model: Any, method: str, kernel: str, group: int) -> Any:
    """The model with its linear layers replaced as transformers replaces them for a checkpoint of GPTQ or AWQ, `group`
    weights to a scale."""
    from gptqmodel.utils.importer import hf_select_quant_linear_v2
    from gptqmodel.utils.model import hf_gptqmodel_post_init

    device = model.device
    named = {"triton": "awq_gemm_triton" if method == "awq" else "gptq_triton"}.get(kernel, f"{method}_{kernel}")
    shape = {"bits": 4, "group_size": group, "desc_act": False, "sym": method == "gptq"}
    made = hf_select_quant_linear_v2(
        **shape, format="gptq" if method == "gptq" else "gemm", quant_method=method, backend=named, pack=False,
        device_map={"": str(device)}, zero_point=True if method == "awq" else None,
    )  # fmt: skip
    for name, old in list(model.model.named_modules()):
        if not isinstance(old, torch.nn.Linear):
            continue
        sizes = {"in_features": old.in_features, "out_features": old.out_features, "bias": False}
        new = made(**shape, **sizes, register_buffers=True, dtype=model.dtype).to(device)
        for part, values in [*new.named_parameters(), *new.named_buffers()]:
            if part == "g_idx":
                values.data = torch.arange(old.in_features, device=device, dtype=values.dtype) // group
            elif part == "scales":
                values.data.copy_(torch.rand(values.shape, device=device) / 400)
            elif part in ("qweight", "qzeros"):
                values.data.random_(-(2**31), 2**31 - 1)
        model.model.set_submodule(name, new)
    hf_gptqmodel_post_init(model, use_act_order=False)
    return model.eval()


def repeatable(slots: DecoderSlots, rows: int, vocabulary: int) -> dict[str, bool]:
    """Whether the same work gives the same bits: reading prompts, and one step after them."""
    device, found = slots.device, {}
    ids = torch.tensor(prompts(rows, vocabulary), device=device)
    places = torch.arange(PROMPT, device=device).repeat(rows, 1)
    at, last = torch.arange(rows, device=device), torch.full((rows,), PROMPT - 1, device=device)
    with torch.inference_mode():
        read = [slots.decoder(ids, at, places, last).clone() for _ in range(3)]
        token, place = read[0].argmax(dim=-1, keepdim=True), torch.full((rows, 1), PROMPT, device=device)
        step = [slots.decoder(token, at, place).clone() for _ in range(3)]
        tops = [read[0].argmax(dim=-1) for _ in range(5)]
    found["prompts"] = all(torch.equal(read[0], r) for r in read)
    found["step"] = all(torch.equal(step[0], s) for s in step)
    found["argmax"] = all(torch.equal(tops[0], t) for t in tops)
    found["ties"] = int((step[0] == step[0].max(dim=-1, keepdim=True).values).sum()) - rows
    return found


def prompts(rows: int, vocabulary: int) -> list[list[int]]:
    """Random prompts, the same at every call."""
    made = torch.Generator().manual_seed(1)
    return torch.randint(10, vocabulary, (rows, PROMPT), generator=made).tolist()


def served(slots: DecoderSlots, rows: int, vocabulary: int) -> tuple[list[list[int]], list[float]]:
    """The tokens of a batch and the seconds of its steps, as a client sees them."""
    asked = [Request(p, STEPS) for p in prompts(rows, vocabulary)]
    made = serve(slots, asked, (), rows=rows)
    times = made[0].times
    return [m.tokens for m in made], [b - a for a, b in itertools.pairwise(times)]


def generated(model: Any, rows: int) -> float:
    """Seconds a step of transformers' own `generate`."""
    ids = torch.tensor(prompts(rows, model.config.vocab_size), device="cuda")
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    model.generate(ids, max_new_tokens=4, **options)
    seconds = []
    for tokens in (8, 40):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(ids, max_new_tokens=tokens, **options)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / 32


def profile(slots: DecoderSlots) -> list[dict[str, Any]]:
    """Where an uncaptured step's time goes on the device, by kernel."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        slots.step([0])()
        torch.cuda.synchronize()
    rows = sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total)[:14]
    return [{"kernel": e.key[:90], "calls": e.count, "us": round(e.self_device_time_total, 1)} for e in rows]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=["fp16"])
    parser.add_argument("--group", type=int, default=128, help="4-bit weights to a scale")
    parser.add_argument("--generate", action="store_true", help="time transformers' generate() too")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    lines: list[str] = []

    def told(**values: Any) -> None:
        lines.append(json.dumps(values))
        print(lines[-1], flush=True)
        if chosen.out:
            chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")

    rate = bandwidth("cuda")
    told(device=torch.cuda.get_device_name(), torch=torch.__version__, copy_tb_per_s=round(rate / 1e12, 3))
    for shape, weights in itertools.product(chosen.shapes, chosen.weights):
        model = model_of(shape, torch.float16)
        if weights != "fp16":
            model = quantized(model, weights, chosen.group)
        read = step_bytes(model, weight_bytes(model))
        limit = read / rate
        name = {"shape": shape, "weights": weights}
        told(**name, read_gib=round(read / 2**30, 3), limit_ms=round(1e3 * limit, 3), why=uncapturable(model))
        if chosen.generate:
            told(**name, generate_ms={rows: round(1e3 * generated(model, rows), 2) for rows in (1, 8)})
        for capture in (False, True):
            if capture and uncapturable(model):
                continue
            slots = DecoderSlots(model, 32, 512, capture=capture)
            if capture:
                told(**name, differs=slots.decoder.differs())
            else:
                told(**name, repeatable={rows: repeatable(slots, rows, model.config.vocab_size) for rows in (1, 8, 32)})
            for rows in (1, 8, 32):
                served(slots, rows, model.config.vocab_size)
                tokens, steps = served(slots, rows, model.config.vocab_size)
                again, _ = served(slots, rows, model.config.vocab_size)
                step = statistics.median(steps)
                told(
                    **name, captured=capture, rows=rows, step_ms=round(1e3 * step, 3),
                    times_limit=round(step / limit, 2), same_again=tokens == again,
                )  # fmt: skip
            if not capture:
                told(**name, profile=profile(slots))
        told(**name, tokens_as_eager=as_eager(model, slots), of=STEPS)
        del model, slots
        torch.cuda.empty_cache()


def as_eager(model: Any, slots: DecoderSlots) -> int:
    """How many tokens of one answer are those of the model's own forward pass, before the first that is not."""
    made, cache = [], StaticCache(config=model.config, max_cache_len=PROMPT + STEPS)
    ids = torch.tensor(prompts(1, model.config.vocab_size), device="cuda")
    with torch.inference_mode():
        for _ in range(STEPS):
            ids = model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1].argmax(dim=-1, keepdim=True)
            made.append(int(ids))
    mine = served(slots, 1, model.config.vocab_size)[0][0]
    return next((n for n, (a, b) in enumerate(zip(made, mine, strict=True)) if a != b), STEPS)


if __name__ == "__main__":
    main()
