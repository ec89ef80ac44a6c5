"""What a loaded model is made of: its linear layers, its bytes, what its attention sees and what its cache holds."""

from __future__ import annotations

from collections import Counter
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary


def linear_class(module: Any) -> str | None:
    """The name of a linear layer's class, None for any other module; a torchao weight is named with its tensor class,
    since torchao swaps the weight and leaves the module a `Linear`."""
    import torch

    name = type(module).__name__
    if "Linear" not in name:
        return None
    weight = getattr(module, "weight", None)
    plain = weight is None or type(weight) in (torch.Tensor, torch.nn.Parameter) or name != "Linear"
    return name if plain else f"{name}[{type(weight).__name__}]"


def linear_classes(model: Any) -> dict[str, int]:
    """How many modules of each linear class a model has."""
    return dict(Counter(name for module in model.modules() if (name := linear_class(module))))


def decoder_weights(model: Any, kind: str = "") -> int:
    """How many weights stand in the matrices of a model's decoder, its embeddings and its head left out: all, or those
    of linear layers whose class has `kind` in its name."""
    from torch.nn import Embedding

    decoder = below_adapters(model).get_decoder()
    if kind:
        return sum(m.weight.numel() for m in decoder.modules() if kind in (linear_class(m) or ""))
    embeddings = {id(m.weight) for m in decoder.modules() if isinstance(m, Embedding)}
    return sum(p.numel() for p in decoder.parameters() if p.ndim > 1 and id(p) not in embeddings)


def weight_bytes(*parts: Any) -> int:
    """Bytes that the parameters and buffers of a model, or of parts of it, hold in memory; shared ones count once."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    def leaves(tensor: Any) -> list[Any]:
        if not is_traceable_wrapper_subclass(tensor):
            return [tensor]
        names, _ = tensor.__tensor_flatten__()
        return [leaf for name in names for leaf in leaves(getattr(tensor, name))]

    seen: dict[int, int] = {}
    for tensor in (t for part in parts for t in (*part.parameters(), *part.buffers())):
        held = (tensor, getattr(tensor, "quant_state", None))  # bitsandbytes keeps scales beside its weights
        extra = [getattr(each, name, None) for each in held for name in ("CB", "SCB", "absmax")]
        for leaf in [*leaves(tensor), *extra]:
            if leaf is not None:
                storage = leaf.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def below_adapters(model: Any) -> Any:
    """transformers' own model, which PEFT's adapters may be wrapped around."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def takes(model: Any, option: str) -> bool:
    """Whether a model's forward pass has a parameter of this name."""
    return option in signature(below_adapters(model).forward).parameters


def uncached(model: Any) -> str:
    """Why a model's forward pass takes no cache of transformers' usual kind, or nothing."""
    if not takes(model, "past_key_values"):
        return "past_key_values"
    try:
        row_bytes(model, 1)
    except ValueError as error:
        return str(error)
    return ""


def blocks_of(model: Any) -> list[Any]:
    """The layers of a model's decoder, in whatever list it keeps them; empty where there is none."""
    from torch.nn import ModuleList

    decoder = below_adapters(model).get_decoder()
    number = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    return next((list(m) for m in decoder.modules() if isinstance(m, ModuleList) and len(m) == number), [])


def written_by(model: Any) -> tuple[Any, ...]:
    """The parts of a model that read and write text: the decoder and what makes logits. Another may see or hear."""
    whole = below_adapters(model)
    return tuple(part for part in (whole.get_decoder(), whole.get_output_embeddings()) if part is not None)


def beside_text(model: Any) -> list[Any]:
    """The parameters of a model that have no part in text: those of what sees or hears."""
    whole = below_adapters(model)
    own = {id(p) for p in whole.get_decoder().parameters()}
    return [p for p in whole.base_model.parameters() if id(p) not in own]


def has_experts(model: Any) -> bool:
    """Whether tokens are sent to experts, so that a step reads a part of the weights alone."""
    return any(word in type(module).__name__ for module in model.modules() for word in ("Expert", "MoE"))


def full_attention(model: Any) -> bool:
    """Whether every layer sees all tokens, at the positions it is told, whatever comes after them: then a prefix may be
    read before the rest, and padding behind it does no harm. A window would count it, and so would scores that fall
    with distance (ALiBi)."""
    config = model.config.get_text_config(decoder=True)
    told = takes(model, "position_ids") and not getattr(config, "alibi", False) and not turns_by_length(config)
    window = getattr(config, "sliding_window", None)
    return attention_kinds(config) <= {"full_attention", "global"} and not window and told


def attention_kinds(config: Any) -> set[str]:
    """What the layers of a configuration are called by what they see, where it says."""
    return {*(getattr(config, "layer_types", None) or ()), *(getattr(config, "attention_layers", None) or ())}


def turns_by_length(config: Any) -> bool:
    """Whether the angles of rotary positions follow from how long the text is (`rope_type` dynamic, longrope)."""
    told = getattr(config, "rope_parameters", None) or {}
    kinds = (each.get("rope_type") for each in (told, *told.values()) if isinstance(each, dict))
    return any("dynamic" in str(kind) or kind == "longrope" for kind in kinds)


def turns_alike_to(config: Any) -> int | None:
    """Up to how many tokens the angles of longrope are the same whatever the length; None for other kinds."""
    told = getattr(config, "rope_parameters", None) or {}
    longrope = told.get("rope_type") == "longrope"
    return int(told["original_max_position_embeddings"]) if longrope else None


def exact(model: Any) -> bool:
    """Whether two right ways of computing a model agree to a few digits: in float32, with nothing quantized. Elsewhere
    they differ by rounding, which a deep model amplifies."""
    import torch

    return model.dtype == torch.float32 and not getattr(model.config, "quantization_config", None)


def dynamic(linear: Any) -> bool:
    """Whether a layer is torchao's dynamic INT8 as `harness.quantize.dynamic` makes it: a scale a row on both sides,
    symmetric."""
    weight: Any = getattr(linear, "weight", None)
    if type(weight).__name__ != "Int8Tensor" or weight.act_quant_kwargs is None:
        return False
    plain = weight.act_pre_scale is None and weight.act_quant_scale is None and not weight.reduce_range
    by_rows = type(weight.act_quant_kwargs.granularity).__name__ == "PerRow" and weight.scale.numel() == len(weight)
    return plain and by_rows and weight.act_quant_kwargs.mapping_type.name == "SYMMETRIC"


def llm_int8(linear: Any) -> bool:
    """Whether a layer is bitsandbytes' LLM.int8 with its weights quantized."""
    if type(linear).__name__ != "Linear8bitLt" or linear.state.has_fp16_weights:
        return False
    return (linear.weight.SCB if linear.state.SCB is None else linear.state.SCB) is not None


def kv_bytes(model: Any, tokens: int = 1) -> int:
    """Bytes of keys and values that one row of so many tokens holds in all layers; a layer that sees a window keeps no
    more than that. Counted once a model, in a cache of two tokens."""
    grow, _ = _kept(model)
    return sum(each * min(tokens, window or tokens) for each, window in grow)


def row_bytes(model: Any, tokens: int) -> int:
    """Bytes of all that one row of so many tokens holds: keys and values, and states that do not grow with the text (of
    convolutions, of linear attention)."""
    return kv_bytes(model, tokens) + _kept(model)[1]


_KEPT: WeakKeyDictionary[Any, tuple[list[tuple[int, int | None]], int]] = WeakKeyDictionary()


def keep_windows(model: Any) -> None:
    """Has `kv_bytes` count layers that see a window as keeping all tokens, as slots do."""
    grow, states = _kept(model)
    _KEPT[model] = [(each, None) for each, _ in grow], states


def keys_of(model: Any) -> list[tuple[Any, Any, int]]:
    """The keys and values [1, heads, 1, size] of one token by layer and the window that each sees (0: all), but for the
    last ones where these take those of layers before them. Raises `AttributeError` for layers that keep something
    else."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        below_adapters(model).base_model(
            torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache
        )
    kept = (layer for layer in cache.layers if layer.keys is not None)
    return [(layer.keys, layer.values, getattr(layer, "sliding_window", None) or 0) for layer in kept]


def _kept(model: Any) -> tuple[list[tuple[int, int | None]], int]:
    """Of each layer of a cache: the bytes by which it grows with a token, and the window it keeps, if it does. Then
    those of all that does not grow."""
    if model not in _KEPT:
        _KEPT[model] = _counted(model)
    return _KEPT[model]


def _counted(model: Any) -> tuple[list[tuple[int, int | None]], int]:
    import torch
    from torch.utils._pytree import tree_leaves
    from transformers import DynamicCache

    def of(*names: str) -> list[int]:
        parts = ([getattr(layer, name, None) for name in names] for layer in cache.layers)
        return [sum(t.nbytes for t in tree_leaves(part) if isinstance(t, torch.Tensor)) for part in parts]

    def held() -> list[int]:
        with torch.inference_mode():
            decoder(torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache)
        return of("keys", "values")

    decoder = below_adapters(model).base_model  # whatever head stands on it
    cache = DynamicCache(config=model.config)
    first, second = held(), held()
    windows = [getattr(layer, "sliding_window", None) for layer in cache.layers]
    grow = [(b - a, w) for a, b, w in zip(first, second, windows, strict=True)]
    return grow, sum(of("conv_states", "recurrent_states"))
