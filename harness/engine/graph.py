"""The engine of GPUs: a written-out decoder on slots, its steps captured as CUDA graphs, requests admitted as slots
fall free. Quality and latency run on it alike.

A model that cannot be decoded or captured this way runs as far as it can, and `how` in its proof says what and why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar

from harness.anatomy import keep_windows
from harness.engine.decoder import Decoder
from harness.engine.decoder import unfit as decoder_unfit
from harness.engine.eager import Eager, EagerSession
from harness.engine.ends import Ends
from harness.engine.engine import Engine
from harness.engine.fits import LOWER, holds
from harness.engine.one_token import attends_by
from harness.engine.products import computed_here
from harness.engine.proved import PROOF_ROWS, PROOF_TOKENS, Proved
from harness.engine.serving import serve
from harness.engine.slots import DecoderSlots, power, uncapturable
from harness.engine.whole import Whole
from harness.engine.whole import unfit as whole_unfit
from harness.errors import DoesNotFit
from harness.loading import Loaded
from harness.types import Completion, Context, Request, Served, Session

LENGTHS = 64  # slots hold a multiple of so many tokens


@dataclass(frozen=True, slots=True)
class Graph(Engine):
    """`capture` puts each shape of a step into a CUDA graph; without a GPU nothing is captured. A shared prefix is
    computed once for quality alone. Where answers are `constrained`, no step is launched before the tokens of the last
    are known, and the host finds what they allow while the step runs."""

    batch_size: int = 64
    min_prefix: int = 32
    capture: bool = True

    VERSION: ClassVar[int] = 9

    def decoding(self, loaded: Loaded, context: Context, output: str) -> Session:
        """See `Engine.decoding`."""
        eager = Eager(**{knob.name: getattr(self, knob.name) for knob in fields(Engine)})
        reference = EagerSession(eager, loaded, context, output)
        reasons = []
        for decoder, cannot in ((Decoder, decoder_unfit), (Whole, whole_unfit)):
            if why := cannot(loaded.model):
                reasons.append(why)
                continue
            if decoder is Whole and (kinds := computed_here(loaded.model)):
                loaded.proof["products"] = sorted(kinds)
            session = GraphSession(self, reference, decoder, "; ".join(reasons))
            if not (why := session.proved()):
                return session
            reasons.append(why)
        loaded.proof["how"] = f"eager: {'; '.join(dict.fromkeys(reasons))}"
        return reference


class GraphSession:
    """A loaded model with its tokenizer, ready to generate."""

    def __init__(self, knobs: Graph, eager: EagerSession, decoder: type[Proved], otherwise: str) -> None:
        """`otherwise` is why the model is not decoded in a faster way."""
        self.knobs = knobs
        self.decoder = decoder
        self.otherwise = otherwise
        self.eager = eager
        self.loaded: Loaded = eager.loaded
        self.model = eager.model
        self.tokenizer = eager.tokenizer
        self._slots: DecoderSlots | None = None
        self.captured = False
        why = "no CUDA device" if eager.device != "cuda" else uncapturable(self.model)
        self._tell(why or ("" if knobs.capture else "engine.capture is off"))

    def _tell(self, why: str) -> None:
        """Captures steps, or says why not."""
        self.captured = not why
        how = f"not captured: {why}" if why else "CUDA graph"
        whole = f", by transformers' own forward pass: {self.otherwise}" if self.otherwise else ""
        self.loaded.proof["how"] = how + whole

    def proved(self) -> str:
        """How what decodes here differs from the model itself, or why it cannot, or nothing; then the proof says how it
        decodes."""
        import torch

        before = self.model.config._attn_implementation
        try:
            decoder = self.slots(PROOF_ROWS, PROOF_TOKENS + 1).decoder
            far = decoder.differs()
            why = f"decoded in pieces it computes otherwise ({far})" if far else ""
            host = decoder.asks_host() if self.captured and not why else ""
        except (AttributeError, TypeError, ValueError, LookupError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            told = " ".join(f"{type(error).__name__}: {error}".split())
            why, host = f"it cannot be decoded in pieces ({told})", ""
        if why:
            self.model.set_attn_implementation(before)
        elif host:
            self._slots = None
            self._tell(f"its forward pass asks the host ({host})")
        if not why:
            self.loaded.proof["products"] = decoder.products
            self.loaded.proof.pop("attention", None)  # of the other engine
            if self.eager.device == "cpu" and self.decoder is Decoder:
                self.loaded.proof["attention"] = attends_by(decoder.cache[0][0], self.model.config)
            keep_windows(self.model)  # a slot holds all its tokens
        return why

    @property
    def places(self) -> int:
        """How many requests of an open loop are answered side by side."""
        return self.knobs.batch_size

    def slots(self, rows: int, tokens: int, prefix: Sequence[int] = (), largest: bool = False) -> DecoderSlots:
        """Slots for so many rows of so many tokens, those there are if they are enough. New ones hold what those held
        too, and lengths to the next power of two, where that leaves half of the memory that is free: not of the
        `largest` work to come, of which they hold no more than it needs. What is to be served on them begins with
        `prefix`, which is in them already."""
        have, longest = self._slots, self.decoder.longest(self.model)
        if longest and tokens > longest:
            raise DoesNotFit(
                f"requests of {tokens:,} tokens: beyond {longest:,} this model turns positions by the length of the "
                f"text, which slots cannot follow; lower {LOWER}, or set engine=eager"
            )
        if have is None or have.rows < rows or have.capacity < tokens:
            least = rows, -(-tokens // LENGTHS) * LENGTHS
            both = [(max(rows, have.rows), max(tokens, have.capacity))] if have else []
            sizes = [] if largest else [(r, power(t, LENGTHS)) for r, t in (*both, (rows, tokens))]
            if have:
                have.release()
            self._slots = have = None  # its memory first
            fits = (s for s in sizes if holds(self.model, self.eager.device, 2 * (s[0] + 1), s[1]))
            self._slots = have = DecoderSlots(
                self.model, *next(fits, least), capture=self.captured, chooser=self.eager.chooser,
                grammar=self.eager.grammar, decoder=self.decoder,
            )  # fmt: skip
        have.share(prefix)
        return have

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        progress: Callable[[int], None] = lambda done: None,
        ends: Sequence[str] = (),
        keys: Sequence[int] = (),
    ) -> list[Completion]:
        """See `harness.engine.eager.EagerSession.generate`."""
        if not prompts:
            return []
        told = self.eager.encode(prompts, max_new_tokens)
        shared = self.eager.worthwhile_prefix(told)
        named = zip(told, keys or range(len(told)), strict=True)
        asked = [Request(ids[shared:], max_new_tokens, key=key) for ids, key in named]
        rows = min(self.knobs.batch_size, len(asked))
        made = self._serve(asked, rows, self.eager.stops, progress, prefix=told[0][:shared], ends=ends)
        texts = self.tokenizer.batch_decode([m.tokens for m in made], skip_special_tokens=True)
        return [Completion(t, len(m.tokens), m.finished) for t, m in zip(texts, made, strict=True)]

    def loglikelihood(
        self, pairs: Sequence[tuple[str, str]], progress: Callable[[int], None] = lambda done: None
    ) -> list[tuple[float, bool]]:
        """See `harness.engine.eager.EagerSession.loglikelihood`: one pass over whole rows, no decoding."""
        return self.eager.loglikelihood(pairs, progress)

    def time_tokens(self, prompt: str, new_tokens: int, natural: bool = False, ends: Sequence[str] = ()) -> list[float]:
        """Seconds from sending one prompt to each of its `new_tokens` tokens. Stop tokens are ignored, so that each
        request does the same work, unless its `natural` end is wanted, or the first of the texts `ends`."""
        asked = [Request(ids, new_tokens) for ids in self.eager.encode([prompt], new_tokens)]
        self._warm(asked)
        (served,) = self._serve(asked, 1, self.eager.stops if natural else (), ends=ends if natural else ())
        return [t - served.sent for t in served.times]

    def time_batch(
        self, prompts: Sequence[str], new_tokens: int, read: Callable[[], None] = lambda: None
    ) -> list[float]:
        """Seconds of each step of one batch: element 0 reads the prompts and makes the first token of each, the others
        make one more token of each. Stop tokens are ignored. `read` is called when the reading is launched, before any
        step is; what it takes counts for the reading."""
        asked = [Request(ids, new_tokens, key=i) for i, ids in enumerate(self.eager.encode(prompts, new_tokens))]
        self._warm(asked)
        made = self._serve(asked, len(asked), admitted=read)
        times = made[0].times
        return [times[0] - made[0].sent, *(b - a for a, b in pairwise(times))]

    def serve(
        self, prompts: Sequence[str], new_tokens: int, clients: int, due: Sequence[float] | None = None,
        natural: bool = False, ends: Sequence[str] = (),
    ) -> list[Served]:  # fmt: skip
        """Answers of `new_tokens` tokens each, stop tokens ignored, or up to their `natural` end or the first of the
        texts `ends`, with the times of their tokens. `clients` is how many are answered side by side; each asks again
        when it has its answer, or, with `due`, requests come at these seconds after the start and wait for a place.
        Every shape of a step is captured before the clock starts."""
        times: Sequence[float | None] = due or [None] * len(prompts)
        some = list(dict.fromkeys(prompts))  # a load asks few prompts many times
        ids = dict(zip(some, self.eager.encode(some, new_tokens), strict=True))
        asked = [Request(ids[p], new_tokens, at, key=i) for i, (p, at) in enumerate(zip(prompts, times, strict=True))]
        self._warm(asked, clients)
        slots, told = self.slots(clients, 0), Ends(self.tokenizer, ends if natural else ())
        stops = self.eager.stops | told.stops if natural else ()
        return serve(slots, asked, stops, rows=clients, ended=told.reached)

    def _warm(self, asked: Sequence[Request], rows: int | None = None) -> None:
        """Captures every shape that serving these requests meets before a clock starts."""
        slots = self.slots(rows or len(asked), max(len(r.prompt) + r.max_new_tokens for r in asked))
        slots.warm(rows or len(asked), [len(r.prompt) for r in asked])

    def _serve(
        self,
        asked: Sequence[Request],
        rows: int,
        stops: Any = (),
        progress: Callable[[int], None] = lambda done: None,
        admitted: Callable[[], None] = lambda: None,
        prefix: Sequence[int] = (),
        ends: Sequence[str] = (),
    ) -> list[Served]:
        slots = self.slots(rows, len(prefix) + max(len(r.prompt) + r.max_new_tokens for r in asked), prefix)
        order = sorted(range(len(asked)), key=lambda i: -len(asked[i].prompt))  # like widths are read together
        told = Ends(self.tokenizer, ends)
        made = serve(
            slots, [asked[i] for i in order], {*stops, *told.stops},
            rows=rows, wait_for=max(1, rows // 4), progress=progress, admitted=admitted,
            ended=told.reached,
        )  # fmt: skip
        found = dict(zip(order, made, strict=True))
        return [found[i] for i in range(len(asked))]
