"""The few operations of a decode step beside its matrix products: on a GPU one kernel each (`harness.engine.kernels`),
elsewhere plain PyTorch, which is what the kernels are tested against, and C where gcc is there to compile it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.engine import rowwise
from harness.engine.one_token import attend_one

PIECE_ROWS = 256  # of int8 products on a CPU
LIKELIEST_ROWS = 16  # of logits on a CPU

# of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), signed
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def _kernels(tensor: Any) -> Any:
    """The kernels for a tensor's device, or None where PyTorch does it."""
    if not tensor.is_cuda:
        return None
    from harness.engine import kernels

    return kernels


def likeliest(logits: Any) -> Any:
    """The index of the highest of each row of `logits` [rows, size], the first of equals. On a CPU in float32, as there
    PyTorch takes four times as long for the maximum of bfloat16, and some rows at a time, as `_by_rows` says."""
    if logits.is_cuda or logits.element_size() == 4:
        return logits.argmax(dim=-1)
    import torch

    return torch.cat([some.float().argmax(dim=-1) for some in logits.split(LIKELIEST_ROWS)])


def drawn(logits: Any, keys: Any, positions: Any, temperature: float, top_p: float, seed: int) -> Any:
    """One token a row, drawn by the chances softmax(`logits` / `temperature`): the highest sum of a scaled logit and
    Gumbel noise (Maddison et al., "A* Sampling", arXiv 1411.0030), in float32; of the `nucleus` if `top_p` is below 1.

    `logits` [rows, vocabulary]; `keys` and `positions` [rows], of int64, name a row and its place in it. The noise
    follows from them and `seed` alone, so a row gets its tokens in whatever batch it stands. Returns [rows].
    """
    import torch

    wide = logits.float()
    scaled = (wide - wide.amax(dim=-1, keepdim=True)) / temperature  # from 0 downwards: nothing overflows
    if top_p < 1.0:
        scaled = scaled.masked_fill(~nucleus(scaled, top_p), -math.inf)
    waits = -torch.log1p(-uniforms(keys, positions, logits.shape[-1], seed))
    return (scaled - waits.log()).argmax(dim=-1)


def nucleus(logits: Any, top_p: float) -> Any:
    """The fewest of the likeliest tokens whose chances reach `top_p` together, at least one (Holtzman et al., "The
    curious case of neural text degeneration", arXiv 1904.09751), as a mask of `logits` [rows, vocabulary]."""
    import torch

    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    chances = ranked.softmax(dim=-1)
    before = chances.cumsum(dim=-1, dtype=torch.float64) - chances  # in float64, as a GPU adds in an order of its own
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before < top_p)


def uniforms(keys: Any, positions: Any, vocabulary: int, seed: int) -> Any:
    """Numbers between 0 and 1, both excluded, [rows, vocabulary] in float32, each a hash of its row's key and position
    [rows], its token and the seed: there is no state to keep, on the host or in a captured step."""
    import torch

    row = _mixed(_mixed(_mixed(torch.full_like(keys, seed)) + keys) + positions)
    tokens = torch.arange(vocabulary, device=keys.device)
    bits = _shifted(_mixed(row[:, None] + tokens * GOLDEN), 1)
    return ((bits.float() + 0.5) * 2.0**-63).clamp(max=1 - 2.0**-24)  # finest near 0, where the likeliest noise is


def _mixed(state: Any) -> Any:
    """The number that splitmix64 makes of a state, in int64, whose products wrap."""
    state = state + GOLDEN
    state = (state ^ _shifted(state, 30)) * FIRST
    state = (state ^ _shifted(state, 27)) * SECOND
    return state ^ _shifted(state, 31)


def _shifted(x: Any, bits: int) -> Any:
    """int64 shifted right with zeros coming in; PyTorch's own shift brings the sign in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@dataclass(frozen=True, slots=True)
class Chooser:
    """How an engine chooses a row's next token: the likeliest at `temperature` 0, else `drawn` with `seed`."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def draws(self) -> bool:
        """Whether rows need their keys."""
        return self.temperature > 0

    def __call__(self, logits: Any, keys: Any, positions: Any) -> Any:
        """The tokens [rows] after `logits` [rows, vocabulary]. `positions` [rows] are those of the tokens read last, in
        rows without padding; `keys` [rows] may be None where nothing is drawn."""
        if not self.draws:
            return likeliest(logits)
        return drawn(logits, keys, positions, self.temperature, self.top_p, self.seed)


GREEDY = Chooser()
NORMS = LLAMA, ONCE, CENTRED = 0, 1, 2  # by when they round, and by their weights
SIZES = (16, 32, 64, 128, 256)  # of heads that all kernels take
LARGEST = 512  # that the kernel of `attend` takes, which needs no power of two


def check_sampling(temperature: float, top_p: float) -> None:
    """Raises `ValueError` for knobs of an engine that choose no token."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature}: must be 0 (the likeliest token) or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: must be more than 0 and at most 1")


def add_rms_norm(x: Any, residual: Any, weight: Any, epsilon: float) -> tuple[Any, Any]:
    """`s = x + residual`, and `s` normalised by its root mean square over the last dimension times `weight` (Zhang and
    Sennrich, arXiv 1910.07467); returns (normalised, s). The square is taken in float32."""
    if fast := _kernels(x):
        found: tuple[Any, Any] = fast.add_rms_norm(x, residual, weight, epsilon)
        return found
    if done := rowwise.norm(x, weight, epsilon, residual=residual):
        return done
    total = x + residual
    wide = total.float()
    scaled = wide * (wide.pow(2).mean(dim=-1, keepdim=True) + epsilon).rsqrt()
    return weight * scaled.to(x.dtype), total


def rms_norm(x: Any, weight: Any, epsilon: float, style: int) -> Any:
    """`x` [..., size] normalised by its root mean square times `weight` [size], in one of the `NORMS`: rounded before
    that, as Llama does; times the weight in float32 and rounded then, as Olmo 2 does; or so times 1 + `weight`, where
    weights are centred around 0 as Gemma's are."""
    if fast := _kernels(x):
        return fast.rms_norm(x, weight, epsilon, style)
    if done := rowwise.norm(x, weight, epsilon, style):
        return done[0]
    wide = x.float()
    scaled = wide * (wide.pow(2).mean(dim=-1, keepdim=True) + epsilon).rsqrt()
    if style == LLAMA:
        return weight * scaled.to(x.dtype)
    return (scaled * (weight.float() + (style == CENTRED))).to(x.dtype)


def store(keys: Any, values: Any, cache: tuple[Any, Any], slots: Any, positions: Any) -> None:
    """Writes keys and values [rows, heads, tokens, size] into a `cache` of them [slots, heads, capacity, size], at
    `slots` [rows] and `positions` [rows, tokens]."""
    if fast := _kernels(keys):
        fast.store(keys, values, cache, slots, positions)
        return
    places = slots[:, None].expand_as(positions)
    for kept, new in zip(cache, (keys, values), strict=True):
        kept[places, :, positions] = new.transpose(1, 2)


def silu_mul(gate: Any, up: Any) -> Any:
    """`silu(gate) * up` [tokens, size]."""
    if fast := _kernels(gate):
        return fast.silu_mul(gate, up)
    from torch.nn.functional import silu

    return silu(gate) * up


def rotate_and_store(
    heads: tuple[Any, Any, Any], turns: tuple[Any, Any], cache: tuple[Any, Any], slots: Any, positions: Any
) -> Any:
    """Queries and keys turned by their positions (RoPE, Su et al., arXiv 2104.09864, halves apart as in Llama), and
    keys and values written into their slots.

    `heads` are queries, keys and values [rows, tokens, heads, size], `turns` the cosines and sines [positions, size],
    `cache` keys and values [slots, heads, capacity, size], `slots` [rows] and `positions` [rows, tokens] where to
    write. Returns the turned queries.
    """
    query, key, value = heads
    if fast := _kernels(query):
        return fast.rotate_and_store(query, key, value, turns, cache, slots, positions)
    cos, sin = (t[positions].to(query.dtype) for t in turns)
    if done := turn(query.transpose(1, 2), key.transpose(1, 2), cos, sin, query.shape[3]):
        turned = [t.transpose(1, 2) for t in done]
    else:
        turned = [t * cos.unsqueeze(2) + _half_turned(t) * sin.unsqueeze(2) for t in (query, key)]
    places = slots[:, None].expand_as(positions)
    cache[0][places, :, positions] = turned[1]
    cache[1][places, :, positions] = value
    return turned[0]


def turn(query: Any, key: Any, cos: Any, sin: Any, elements: int) -> tuple[Any, Any] | None:
    """The first `elements` of queries and keys [rows, heads, tokens, size] turned by `cos` and `sin`
    [rows or 1, tokens, angles], halves apart, as many angles as elements or half as many; rounded where
    `apply_rotary_pos_emb` of transformers' models rounds. None where there is no kernel for these."""
    if fast := _kernels(query):
        made: tuple[Any, Any] = fast.turn(query, key, cos, sin, elements)
        return made
    return rowwise.turn(query, key, cos, sin, elements)


def _half_turned(x: Any) -> Any:
    import torch

    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def attend(
    query: Any, cache: tuple[Any, Any], slots: Any, positions: Any, scale: float, window: int = 0, cap: float = 0.0,
    sinks: Any = None,
) -> Any:  # fmt: skip
    """New tokens of each row against all tokens of its slot up to and with their own positions, which are in it, or
    with a `window` the last so many of these. With a `cap`, scores s become cap * tanh(s / cap) (Gemma 2, arXiv
    2408.00118); `sinks` [heads] are scores of a key that every row sees and that has no value (gpt-oss, arXiv
    2508.10925).

    `query` [rows, tokens, heads, size], `cache` keys and values [slots, kv heads, capacity, size]; `slots` [rows] and
    `positions` [rows, tokens]. Returns [rows, tokens, heads, size].
    """
    if fast := _kernels(query):
        return fast.attend(query, cache, slots, positions, scale, window, cap, sinks)
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    rows, tokens, heads, size = query.shape
    if tokens == 1 and not cap and sinks is None:
        ends = positions[:, 0] + 1
        begins = (ends - window).clamp(min=0) if window else torch.zeros_like(ends)
        made = attend_one(query[:, 0], *cache, begins, ends, scale, slots)
        if made is not None:
            return made[:, None]
    most = int(positions.max()) + 1
    first, last = int(slots[0]), int(slots[-1]) + 1
    side_by_side = last - first == rows and bool((slots.diff() == 1).all())
    keys, values = (t[first:last, :, :most] if side_by_side else t[slots, :, :most] for t in cache)
    # heads that share their keys stand beside each other as tokens do
    shape = rows, keys.shape[1], heads // keys.shape[1], tokens
    places, own = torch.arange(most, device=query.device), positions[:, :, None]
    seen = ((places <= own) & (places > own - window) if window else places <= own)[:, None, None]
    packed = query.transpose(1, 2).reshape(*shape[:2], -1, size)
    mask = seen.expand(rows, 1, *shape[2:], most).flatten(2, 3)
    if cap or sinks is not None:
        scores = packed @ keys.transpose(2, 3) * scale
        scores = (torch.tanh(scores / cap) * cap if cap else scores).masked_fill(~mask, -math.inf).float()
        if sinks is not None:
            aside = sinks.float().view(1, shape[1], -1, 1).expand(*shape).reshape(*packed.shape[:3], 1)
            scores = torch.cat([scores, aside], dim=-1)
        found = scores.softmax(dim=-1)[..., :most].to(values.dtype) @ values
    else:
        found = scaled_dot_product_attention(packed, keys, values, attn_mask=mask, scale=scale)
    return found.view(rows, heads, tokens, size).transpose(1, 2)


def dynamic_linear(x: Any, weight: Any, scale: Any, bias: Any) -> Any:
    """A linear layer whose `weight` [out, in] is int8 with a `scale` [out], on activations [..., in] quantized to int8
    a token at a time: torchao's `Int8DynamicActivationInt8WeightConfig`, with its roundings. Returns [..., out]."""
    if fast := _kernels(x):
        return fast.dynamic_linear(x, weight, scale, bias)
    import torch

    def product(rows: Any) -> Any:
        wide = rows.float()
        peaks = wide.abs().amax(dim=-1, keepdim=True).to(rows.dtype)
        step = (peaks / 127.5).float().clamp(min=torch.finfo(torch.float32).eps)
        small = (wide * (1.0 / step)).round_().clamp_(-128, 127).to(torch.int8)
        made = (torch._int_mm(small, weight.t()) * step).to(rows.dtype) * scale
        return (made if bias is None else made + bias).to(rows.dtype)

    return _by_rows(x, len(weight), product)


def llm_int8_linear(x: Any, weight: Any, peaks: Any, bias: Any, threshold: float) -> Any:
    """A linear layer of LLM.int8 (Dettmers et al., arXiv 2208.07339): of `weight` [out, in] in int8, 127 stands for
    `peaks` [out], and activations [..., in] are quantized to int8 a token at a time. Those of `threshold` or more
    (0: none) stay in 16 bits and meet the same weights. Returns [..., out].

    bitsandbytes takes a whole column out where any token of a batch has an outlier in it; here it is that token's
    element alone. For one token that is the same; with many, no token's result depends on its neighbours, and the host
    need not be asked which columns they are.
    """
    if fast := _kernels(x):
        return fast.llm_int8_linear(x, weight, peaks, bias, threshold)
    import torch

    def product(rows: Any) -> Any:
        wide = rows.float()
        size = wide.abs()
        own = size.amax(dim=-1, keepdim=True)
        apart = size >= threshold if threshold and bool((own >= threshold).any()) else None
        if apart is not None:
            wide = wide.masked_fill(apart, 0.0)
            own = size.masked_fill_(apart, 0.0).amax(dim=-1, keepdim=True)
        small = (wide * (127.0 / own.clamp(min=1e-30))).round_().to(torch.int8)
        made = torch._int_mm(small, weight.t()).float().mul_(own).mul_(peaks / 127**2)
        if apart is not None:
            columns = apart.any(dim=0).nonzero()[:, 0]
            exact = torch.bfloat16 if rows.dtype == torch.bfloat16 else torch.float32  # of 127 times an activation
            lost = rows.index_select(1, columns).masked_fill(~apart.index_select(1, columns), 0.0).to(exact)
            made += (lost @ weight.index_select(1, columns).to(exact).t()) * (peaks / 127)
        return (made if bias is None else made + bias.float()).to(rows.dtype)

    return _by_rows(x, len(weight), product)


def _by_rows(x: Any, columns: int, product: Callable[[Any], Any]) -> Any:
    """A product of `x` [..., in] of so many `columns`, some rows at a time: its float32 temporaries then stay in a
    core's cache, where those of a whole prompt are taken from the system and given back."""
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) <= PIECE_ROWS:
        return product(rows).view(*x.shape[:-1], columns)
    made = x.new_empty(len(rows), columns)
    for start in range(0, len(rows), PIECE_ROWS):
        made[start : start + PIECE_ROWS] = product(rows[start : start + PIECE_ROWS])
    return made.view(*x.shape[:-1], columns)
