"""What engines share: the knobs of decoding, and how a model directory becomes a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.engine.classifier import ClassifierSession
from harness.engine.ops import check_sampling
from harness.engine.products import replace_products
from harness.loading import KERNELS, Loaded, load
from harness.types import Context, Session


@dataclass(frozen=True, slots=True)
class Engine:
    """`batch_size` rows decode together; a shared prefix of at least `min_prefix` tokens is computed once (0: never).
    `int4_kernel`: see `harness.loading.load`. `unpack_int4` answers for quality from plain weights on a CPU
    (`harness.unpacking`). `constrained` keeps answers within the suite's output grammar. Tokens are drawn at a
    `temperature` above 0, of the likeliest that reach `top_p` together; see `harness.engine.ops.drawn`."""

    batch_size: int = 48
    min_prefix: int = 8
    int4_kernel: str = "auto"
    unpack_int4: bool = True
    constrained: bool = False
    temperature: float = 0.0
    top_p: float = 1.0

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "transformers", "llguidance")

    def __post_init__(self) -> None:
        for knob, least in (("batch_size", 1), ("min_prefix", 0)):
            if getattr(self, knob) < least:
                raise ValueError(f"{knob}={getattr(self, knob)}: must be {least} or more")
        if self.int4_kernel not in KERNELS:
            raise ValueError(f"int4_kernel={self.int4_kernel!r}: choose one of {', '.join(KERNELS)}")
        check_sampling(self.temperature, self.top_p)

    def start(self, folder: Path, context: Context, quality: bool = False, output: str = "") -> Session:
        """Loads a model directory and returns a session that answers with it, for `quality` or to be timed. `output` is
        the grammar that answers keep to when the engine is `constrained`."""
        unpacks = quality and self.unpack_int4
        return self.over(load(folder, context, self.int4_kernel, unpacks=unpacks), context, output)

    def over(self, loaded: Loaded, context: Context, output: str = "") -> Session:
        """A session that answers with what is loaded already."""
        replace_products(loaded, context.device)
        if loaded.classes:
            return ClassifierSession(self.batch_size, loaded, context)
        return self.decoding(loaded, context, output)

    def decoding(self, loaded: Loaded, context: Context, output: str) -> Session:
        """A session that answers with a model that generates."""
        raise NotImplementedError
