"""AWQ's clipping search as a quadratic form, its packing at once, and its scale search in float32, for gptqmodel 7.6.0.

gptqmodel finds the clipping range of a group by multiplying every token with every candidate weight, element by
element: of 533 seconds for a 135M model on one core, most are page faults of those temporaries. The error it
wants is sum_t (x_t . (q - w))**2 = (q - w)^T X^T X (q - w): with the Gram matrix of the group's inputs (64 x 64)
the same number costs two small matrix products, and tokens no longer matter: 46 seconds.

It also rounds and packs a layer's weights one column at a time, in Python: minutes for a model of 8 billion. `pack`
does the same sums with whole tensors.

In float32 the scale search would stash the weights without copying them (`.to(float32).cpu().contiguous()` of a
float32 CPU tensor is that tensor), so that restoring restores nothing; `_Stashed` hands it a copy.

All replace methods of one exact version, which `gptqmodel_runs.prepare` demands.
"""

from __future__ import annotations

from typing import Any

from harness.quantize.gptqmodel_runs import TESTED

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # in which eight columns of AWQ's GEMM format share a word


def best_clip(
    self: Any, w: Any, input_feat: Any, n_grid: int = 20, max_shrink: float = 0.5, n_sample_token: int = 512
) -> Any:
    """The clipping bound of each group, [out, groups, 1], that least changes the layer's output.

    `w` is [out, in], `input_feat` [..., in]; the arguments and the result are those of the method it replaces.
    """
    import torch

    with torch.inference_mode():
        outs, ins = w.shape
        size = self.qcfg.group_size if self.qcfg.group_size > 0 else ins
        tokens = input_feat.reshape(-1, ins)
        tokens = tokens[:: max(1, tokens.shape[0] // n_sample_token)].to(w.device).float()
        grouped = tokens.view(tokens.shape[0], -1, size).transpose(0, 1)
        gram = grouped.transpose(1, 2) @ grouped
        weights = w.float().reshape(outs, -1, size)
        widest = weights.abs().amax(dim=-1, keepdim=True)
        best, least = widest.clone(), torch.full_like(widest, 1e9)
        quantized = torch.empty_like(weights)
        for i in range(int(max_shrink * n_grid)):
            bound = widest * (1 - i / n_grid)
            self._pseudo_quantize_tensor_into(torch.clamp(weights, -bound, bound), quantized)
            change = (quantized - weights).transpose(0, 1)
            error = ((change @ gram) * change).sum(dim=-1).t().unsqueeze(-1) / tokens.shape[0]
            better = error < least
            least, best = torch.where(better, error, least), torch.where(better, bound, best)
        return best.to(w.dtype)


def pack(self: Any, linear: Any, scales: Any, zeros: Any, g_idx: Any = None) -> None:
    """Rounds the weights of `linear` to 4 bits, by the `scales` and `zeros` [out, groups] of their groups, and keeps
    them as AWQ's GEMM format does; the arguments and the buffers are those of the method it replaces. A weight that
    rounds out of its range becomes the range's end; there it would be the other end, or spoil its neighbour."""
    import torch

    scales, zeros = scales.t().contiguous(), zeros.t().contiguous()
    half = scales.dtype if scales.dtype in (torch.float16, torch.bfloat16) else torch.float16
    self.register_buffer("scales", scales.to(half).clone())
    bias = linear.bias
    if bias is None:
        self.bias = None
    else:
        kept = bias.dtype if bias.dtype in (torch.float16, torch.bfloat16) else half
        self.register_buffer("bias", bias.detach().to(kept).clone())
    by_groups = linear.weight.data.t().unflatten(0, (-1, self.group_size))
    codes = torch.round((by_groups + (zeros * scales)[:, None]) / self.scales[:, None]).flatten(0, 1)
    self.register_buffer("qweight", _words(codes.clamp(0, 15).to(torch.int32)))
    self.register_buffer("qzeros", _words(zeros.to(torch.int32)))


def _words(codes: Any) -> Any:
    """Eight codes of 4 bits a word: [rows, columns] -> [rows, columns / 8]."""
    words = codes[:, ORDER[0] :: 8].clone()
    for place, column in enumerate(ORDER[1:], 1):
        words |= codes[:, column::8] << 4 * place
    return words


class _Stashed:
    """Stands for a layer in the scale search: the first look at its weight, which is the stash, gets a copy."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._stashed = False

    @property
    def weight(self) -> Any:
        if self._stashed:
            return self._layer.weight
        self._stashed = True
        return self._layer.weight.clone()


def speed_up(*, float32: bool) -> str:
    """Puts the faster search into gptqmodel's AWQ for this process; with `float32`, makes that dtype safe and
    allowed too. Returns what runs, for the manifest."""
    from gptqmodel.looper.awq_processor import AWQProcessor
    from gptqmodel.nn_modules.qlinear.gemm_awq import AwqGEMMLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear

    AWQProcessor._compute_best_clip = best_clip
    AwqGEMMLinear.pack = AwqTorchLinear.pack = pack
    if float32:
        import torch

        search = AWQProcessor._compute_best_scale

        def best_scale(
            self: Any,
            x: Any,
            w_mean: Any,
            x_mean: Any,
            module2inspect: Any,
            linears2scale: Any,
            *rest: Any,
            **named: Any,
        ) -> Any:
            stashed = [_Stashed(layer) for layer in linears2scale]
            return search(self, x, w_mean, x_mean, module2inspect, stashed, *rest, **named)

        AWQProcessor._compute_best_scale = best_scale
        if torch.float32 not in AwqTorchLinear.SUPPORTS_DTYPES:
            AwqTorchLinear.SUPPORTS_DTYPES = [*AwqTorchLinear.SUPPORTS_DTYPES, torch.float32]
    return f"gptqmodel {TESTED} with Gram-matrix clipping" + (", float32" if float32 else "")
