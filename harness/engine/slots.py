"""Carries out the steps of `harness.engine.serving` on a decoder, each shape a CUDA graph from its second use on.

A captured step is one launch instead of hundreds: on a fast GPU, launching is most of the time of a small batch.
Captured shapes are few: batches are padded to powers of two, prompt widths to one of four between two of them, and what
is padded goes to a slot that nobody reads.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from harness.anatomy import dynamic, llm_int8
from harness.engine.constrained import Grammar, forbid
from harness.engine.decoder import Decoder
from harness.engine.fits import require
from harness.engine.ops import GREEDY, Chooser
from harness.engine.proved import Proved
from harness.engine.serving import Tokens
from harness.loading import context_tokens

PROMPT_TOKENS = 8192  # read at once, at most
MIN_WIDTH = 32


def power(n: int, least: int = 1) -> int:
    """The least power of two that is n or more."""
    return max(least, 1 << max(0, n - 1).bit_length())


def read_at_once(width: int) -> int:
    """How many prompts of a width are read together: a power of two, so that a full batch has no padding."""
    return max(1, power(PROMPT_TOKENS // width + 1) // 2)


class DecoderSlots:
    """`rows` slots of `capacity` tokens, or of the model's context where that is less. With `capture`, steps are CUDA
    graphs; the tokens are the same either way. With a `grammar` answers keep to it: a step's tokens must be known
    before the next is launched."""

    def __init__(
        self, model: Any, rows: int, capacity: int, *, capture: bool, chooser: Chooser = GREEDY,
        grammar: Grammar | None = None, decoder: type[Proved] = Decoder,
    ) -> None:  # fmt: skip
        import torch

        self.rows = rows
        limits = decoder.longest(model), context_tokens(model.config)
        self.capacity = capacity = min([capacity, *(n for n in limits if n and n > 0)])  # padding counts as length too
        self.device = model.device
        self.capture = capture
        self.ahead = capture and grammar is None
        self.grammar = grammar
        self.answers: dict[int, Any] = {}  # matchers by slot; none for padding
        require(model, self.device.type, rows + 1, capacity)
        self.chooser = chooser
        self.decoder = decoder(model, rows + 1, capacity)  # the last slot is for padding
        self._tokens = torch.zeros(rows + 1, dtype=torch.long, device=self.device)
        self._positions = torch.zeros(rows + 1, dtype=torch.long, device=self.device)
        self._keys = torch.zeros(rows + 1, dtype=torch.long, device=self.device)
        self._prefix: tuple[int, ...] = ()  # which stands in all slots
        self._begin = torch.zeros((), dtype=torch.long, device=self.device)  # its length
        self._runs: dict[tuple[int, int], _Run] = {}
        self._pool = torch.cuda.graph_pool_handle() if capture else None

    def share(self, prefix: Sequence[int]) -> None:
        """Reads what all prompts to come begin with into every slot, once; they are then admitted without it. Nothing
        of what is in the slots may be wanted any more."""
        import torch

        if tuple(prefix) == self._prefix:
            return
        self._prefix = ()
        self._begin.zero_()
        if prefix:
            self.admit([prefix], [self.rows], [0])
            with torch.inference_mode():
                for kept in (t for layer in self.decoder.cache for t in layer):
                    kept[:-1, :, : len(prefix)] = kept[-1:, :, : len(prefix)]
                self._begin.fill_(len(prefix))
        self._prefix = tuple(prefix)

    def admit(self, prompts: Sequence[Sequence[int]], slots: Sequence[int], keys: Sequence[int]) -> Tokens:
        """Reads prompts, those of like width together; see `harness.engine.serving.Slots`."""
        if self.grammar:
            self.answers.update({slot: self.grammar.begin() for slot in slots if slot != self.rows})
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        made: list[tuple[list[int], Tokens]] = []
        while order:
            width = self._width(len(prompts[order[0]]))
            some = order[: read_at_once(width)]
            order = order[len(some) :]
            rows = power(len(some)) if self.capture else len(some)
            padded = [list(prompts[i]) + [0] * (width - len(prompts[i])) for i in some]
            ids = padded + [[0] * width] * (rows - len(some))
            last = [len(prompts[i]) - 1 for i in some] + [0] * (rows - len(some))
            into = [slots[i] for i in some] + [self.rows] * (rows - len(some))
            named = [keys[i] for i in some] + [0] * (rows - len(some))
            made.append((some, self._run(rows, width, ids, into, last, named)))

        def tokens() -> list[int]:
            found = {i: token for some, get in made for i, token in zip(some, get(), strict=False)}
            return self._followed(slots, [found[i] for i in range(len(prompts))])

        return tokens

    def step(self, slots: Sequence[int]) -> Tokens:
        """One more token a row; see `harness.engine.serving.Slots`."""
        rows = power(len(slots)) if self.capture else len(slots)
        get = self._run(rows, 0, None, [*slots, *[self.rows] * (rows - len(slots))], None)
        return lambda: self._followed(slots, get()[: len(slots)])

    def _followed(self, slots: Sequence[int], tokens: list[int]) -> list[int]:
        """Tokens that arrived, each known to the matcher of its slot's answer."""
        if self.grammar:
            for slot, token in zip(slots, tokens, strict=True):
                self.grammar.follow(self.answers[slot], token)
        return tokens

    def warm(self, rows: int, lengths: Collection[int]) -> None:
        """Runs each shape that up to `rows` rows with prompts of these lengths can meet until it is captured."""
        widths = {self._width(n) for n in lengths}
        for some in [1 << n for n in range(power(rows).bit_length())]:
            nobody = [self.rows] * some
            for _ in range(self._unused(some, 0)):
                self._run(some, 0, None, nobody, None)()
            for width in [w for w in widths if some <= read_at_once(w)]:
                for _ in range(self._unused(some, width)):
                    self._run(some, width, [[0] * width] * some, nobody, [0] * some)()

    def _unused(self, rows: int, width: int) -> int:
        """How often a shape must run until its next use replays it."""
        run = self._runs.get((rows, width))
        return max(0, 2 - (run.used if run else 0)) if self.capture else 0

    def release(self) -> None:
        """Lets go of captured steps, which hold these slots as these hold them: their memory is then free at once."""
        self._runs.clear()

    def _width(self, length: int) -> int:
        """How wide a prompt is read: its own width, or where widths are captured the next of four between two powers
        of two: of more than 128 tokens, at most a fifth is padding."""
        step = max(MIN_WIDTH, power(length) // 8)
        return min(-(-length // step) * step, self.capacity - len(self._prefix)) if self.capture else length

    def _run(self, rows: int, width: int, ids: Any, slots: list[int], last: Any, keys: Any = None) -> Tokens:
        run = self._runs.get((rows, width)) or _Run(self, rows, width)
        if self.capture:  # else a shape has nothing to keep
            self._runs[rows, width] = run
        return run(ids, slots, last, keys)

    def forward(self, ids: Any, slots: Any, last: Any, keys: Any = None) -> tuple[Any, Any]:
        """Launches the work of one shape: the logits of the next tokens [rows, vocabulary], and the positions [rows] of
        those read last."""
        import torch

        if last is None:
            positions = self._positions[slots]
            return self.decoder(self._tokens[slots][:, None], slots, positions[:, None]), positions
        if keys is not None:
            self._keys[slots] = keys
        places = (self._begin + torch.arange(ids.shape[1], device=self.device)).expand(ids.shape)
        return self.decoder(ids, slots, places, last), self._begin + last

    def choose(self, logits: Any, positions: Any, slots: Any) -> Any:
        """The new tokens [rows], which stand in their slots for the next step too."""
        import torch

        made = self.chooser(logits, self._keys[slots] if self.chooser.draws else None, positions)
        self._tokens[slots] = made
        after = (positions + 1).clamp(max=self.capacity - 1)
        self._positions[slots] = torch.where(slots == self.rows, self._begin, after)  # padding never grows
        return made


class _Run:
    """One shape: its inputs at fixed addresses, and its graph once it has one."""

    def __init__(self, owner: DecoderSlots, rows: int, width: int) -> None:
        import torch

        self.owner = owner
        self.slots = torch.zeros(rows, dtype=torch.long, device=owner.device)
        self.ids = torch.zeros(rows, width, dtype=torch.long, device=owner.device) if width else None
        self.last = torch.zeros(rows, dtype=torch.long, device=owner.device) if width else None
        self.keys = torch.zeros(rows, dtype=torch.long, device=owner.device) if width and owner.chooser.draws else None
        self.was: list[int] = []
        self.used = 0
        self.graph: Any = None
        self.made: Any = None

    def __call__(self, ids: Any, slots: list[int], last: Any, keys: Any = None) -> Tokens:
        import torch

        if slots != self.was:
            _put(slots, self.slots)
            self.was = slots
        for given, there in ((ids, self.ids), (last, self.last), (keys, self.keys)):
            if there is not None and given is not None:
                _put(given, there)
        with torch.inference_mode():
            if self.graph is None and self.owner.capture and self.used:
                self.graph = torch.cuda.CUDAGraph()
                # another thread's call to the driver (gptqmodel's give memory back) must not end this capture
                with torch.cuda.graph(self.graph, pool=self.owner._pool, capture_error_mode="thread_local"):
                    self.made = self._work()
            if self.graph is None:
                self.made = self._work()
            else:
                self.graph.replay()
            made = self.made
            if self.owner.grammar:
                logits, positions = made
                allowed = self.owner.grammar.allowed([self.owner.answers.get(slot) for slot in slots])
                made = self.owner.choose(forbid(logits, allowed), positions, self.slots)
        self.used += 1
        return _sent(made)

    def _work(self) -> Any:
        """The new tokens, or with a grammar what they are to be chosen of."""
        made = self.owner.forward(self.ids, self.slots, self.last, self.keys)
        return made if self.owner.grammar else self.owner.choose(*made, self.slots)


def _put(given: Any, there: Any) -> None:
    """Writes numbers of the host into a tensor, without waiting for what the device does before."""
    import torch

    there.copy_(torch.tensor(given, pin_memory=there.is_cuda), non_blocking=True)


def _sent(made: Any) -> Tokens:
    """Sends tokens to the host; the function returned waits for them."""
    import torch

    if not made.is_cuda:
        kept = made.clone()
        return lambda: kept.tolist()  # type: ignore[no-any-return]
    there = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
    there.copy_(made, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def tokens() -> list[int]:
        arrived.synchronize()
        return there.tolist()  # type: ignore[no-any-return]

    return tokens


def uncapturable(model: Any) -> str:
    """Why steps of a model cannot be captured, or nothing. A capture that fails would take the process with it, so this
    is known beforehand."""
    for module in model.modules():
        if getattr(getattr(module, "state", None), "threshold", 0.0) and not llm_int8(module):
            return "bitsandbytes' own LLM.int8 asks the host in each layer which columns are outliers"
        if type(getattr(module, "weight", None)).__name__ == "Int8Tensor" and not dynamic(module):
            return "torchao's INT8 of this kind is not captured"
    return ""
