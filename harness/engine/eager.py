"""The reference engine: a model's own forward pass, batched by length, the prefix all prompts share computed once.

It asks nothing of a model but transformers' forward pass with a cache, so it runs any causal language model and
any quantization on a CPU or a GPU. Greedy decoding, or noise that follows from seed, row and position, makes a result
repeatable and cells comparable row by row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.anatomy import full_attention, turns_alike_to, uncached
from harness.engine.at_once import norms_at_once, turns_at_once
from harness.engine.constrained import Grammar, forbid
from harness.engine.ends import Ends
from harness.engine.engine import Engine
from harness.engine.fits import require, within_context
from harness.engine.one_token import attends_by
from harness.engine.ops import Chooser
from harness.engine.shared_prefix import RowsCache, layers, switch_on
from harness.environment import settle
from harness.errors import UserError
from harness.loading import Loaded
from harness.prompt import shared_prefix, stops
from harness.types import Completion, Context, Session

PIECE_TOKENS = 2048  # of prompts read at once: enough for a matrix product's full rate on a CPU


@dataclass(frozen=True, slots=True)
class Eager(Engine):
    """Rows that have ended leave the batch when less than `compact_below` of it is still at work."""

    compact_below: float = 0.75

    VERSION: ClassVar[int] = 8
    SERVES: ClassVar[bool] = False

    def __post_init__(self) -> None:
        Engine.__post_init__(self)
        if not self.compact_below >= 0:
            raise ValueError(f"compact_below={self.compact_below}: must be 0 or more")

    def decoding(self, loaded: Loaded, context: Context, output: str) -> Session:
        """See `Engine.decoding`."""
        return EagerSession(self, loaded, context, output)


class EagerSession:
    """A loaded model with its tokenizer, ready to generate."""

    def __init__(self, knobs: Eager, loaded: Loaded, context: Context, output: str = "") -> None:
        self.knobs = knobs
        self.loaded = loaded
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.device = context.device
        if why := uncached(self.model):
            raise UserError(
                f"{type(self.model).__name__} keeps what it has read in no cache of keys and values ({why}), which "
                "decoding here needs; choose a model that does"
            )
        self.chooser = Chooser(knobs.temperature, knobs.top_p, context.seed)
        self.no_prefix, why = switch_on(self.model) if knobs.min_prefix else ([], "")  # none: each row holds its own
        if self.no_prefix:
            loaded.proof["attention"] = attends_by(self.no_prefix[0][0], self.model.config)
        if self.device == "cpu":
            norms_at_once(self.model)
            turns_at_once(self.model)
        if why:
            loaded.proof["attention"] = f"transformers' own, prefixes held by each row ({why})"
        self.stops = stops(self.model.generation_config, self.tokenizer)
        self.grammar = Grammar(self.tokenizer, sorted(self.stops), output) if knobs.constrained and output else None

    def encode(self, texts: Sequence[str], new_tokens: int) -> list[list[int]]:
        """Token ids of rendered texts, which already hold their special tokens. Raises `DoesNotFit` where one of them
        and so many new tokens are longer than the model's context."""
        encoded: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
        within_context(self.model, encoded, new_tokens)
        return encoded

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        progress: Callable[[int], None] = lambda done: None,
        ends: Sequence[str] = (),
        keys: Sequence[int] = (),
    ) -> list[Completion]:
        """Completions of rendered prompts, in the order given, none longer than it takes to hold one of the texts
        `ends`; `progress` hears how many are done. Where tokens are drawn, `keys` are those of the prompts' noise:
        unless given, their places in the list."""
        import torch

        encoded, keys = self.encode(prompts, max_new_tokens), keys or range(len(prompts))
        done: dict[int, Completion] = {}
        told = Ends(self.tokenizer, ends)
        with torch.inference_mode():
            length = self.worthwhile_prefix(encoded)
            prefix = self._prefix_cache(encoded[0][:length]) if length else None
            order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))  # what memory fits them fits all
            while len(done) < len(order):
                rows = self._together(order[len(done) :], encoded, max_new_tokens)
                own = [encoded[i][length:] for i in rows]
                made = self._decode(own, [keys[i] for i in rows], max_new_tokens, prefix, length, ends=told)
                for i, (tokens, finished) in zip(rows, made, strict=True):
                    text = self.tokenizer.decode(tokens, skip_special_tokens=True)
                    done[i] = Completion(text, len(tokens), finished)
                progress(len(done))
        return [done[i] for i in range(len(encoded))]

    def loglikelihood(
        self, pairs: Sequence[tuple[str, str]], progress: Callable[[int], None] = lambda done: None
    ) -> list[tuple[float, bool]]:
        """For each rendered prompt and continuation: the sum of the log probabilities of the continuation's tokens, and
        whether greedy decoding would give just these. At most `PIECE_TOKENS` tokens are read at once, by which what
        their activations and logits take does not grow with the batch."""
        import torch

        asked = self.encode([prompt for prompt, _ in pairs], 0)
        whole = self.encode([prompt + continuation for prompt, continuation in pairs], 0)
        order = sorted(range(len(pairs)), key=lambda i: -len(whole[i]))
        found: dict[int, tuple[float, bool]] = {}
        with torch.inference_mode():
            while len(found) < len(order):
                longest = len(whole[order[len(found)]])
                rows = self._together(order[len(found) :], whole)[: max(1, PIECE_TOKENS // longest)]
                answers = [whole[i][min(len(asked[i]), len(whole[i]) - 1) :] for i in rows]
                ids, own = self._padded([whole[i] for i in rows])
                logits = self.model(
                    ids, attention_mask=own, position_ids=(own.cumsum(dim=1) - 1).clamp(min=0), use_cache=False,
                    logits_to_keep=max(map(len, answers)) + 1,
                ).logits  # fmt: skip
                for at, (i, answer) in enumerate(zip(rows, answers, strict=True)):
                    wanted = torch.tensor(answer, device=self.device)
                    chances = logits[at, -1 - len(answer) : -1].float().log_softmax(dim=-1)
                    total = float(chances.gather(1, wanted[:, None]).sum())
                    found[i] = (total, bool((chances.argmax(dim=-1) == wanted).all()))
                progress(len(found))
        return [found[i] for i in range(len(pairs))]

    def _together(self, order: Sequence[int], texts: Sequence[Sequence[int]], new_tokens: int = 1) -> Sequence[int]:
        """The first of some rows, the longest first, as many as a batch takes. Those whose angles change (of a
        longrope, by the longest row at each step) are among rows of their length, for which they change as one."""
        rows = order[: self.knobs.batch_size]
        if limit := turns_alike_to(self.model.config.get_text_config(decoder=True)):
            changes = [min(max(len(texts[i]), limit + 1 - new_tokens), limit + 1) for i in rows]
            rows = rows[: changes.count(changes[0])]
        return rows

    def worthwhile_prefix(self, encoded: Sequence[Sequence[int]]) -> int:
        """How many leading tokens of these prompts are computed once."""
        length = shared_prefix(encoded) if len(encoded) > 1 and full_attention(self.model) else 0
        return length if self.knobs.min_prefix and length >= self.knobs.min_prefix else 0

    def reads_once(self, prompts: Sequence[str]) -> bool:
        """Whether a batch of these prompts reads at each step once what they share: a step then does less for a row
        than one of a single prompt does."""
        return bool(self.no_prefix) and self.worthwhile_prefix(self.encode(prompts, 0)) > 0

    def _prefix_cache(self, tokens: list[int]) -> Any:
        import torch
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        self.model(torch.tensor([tokens], device=self.device), past_key_values=cache, logits_to_keep=1)
        return cache

    def _decode(
        self,
        suffixes: list[list[int]],
        keys: Sequence[int],
        max_new_tokens: int,
        prefix: Any,
        prefix_length: int,
        timed: Callable[[], None] | None = None,
        ends: Ends | None = None,
    ) -> list[tuple[list[int], bool]]:
        """Token ids and whether each row ended by itself or by one of `ends`, which its tokens then hold. With `timed`,
        which is called after each step, stop tokens are ignored. `keys` are the rows' for drawing."""
        import torch

        rows, width = len(suffixes), max(len(s) for s in suffixes)
        held = 0 if self.no_prefix else prefix_length  # once for all rows, or in each
        require(self.model, self.device, rows, held + width + max_new_tokens)
        ids, own = self._padded(suffixes)
        positions = (own.cumsum(dim=1) - 1).clamp(min=0) + prefix_length
        cache = self._row_cache(prefix, (width - own.sum(dim=1)).clamp(max=width - 1), width + max_new_tokens)
        names = torch.tensor(keys, device=self.device)
        answers = self._answers(rows)
        stops = self.stops | (ends.stops if ends else set())

        made: list[list[int]] = [[] for _ in range(rows)]
        ended = [False] * rows
        live = list(range(rows))
        for step in range(max_new_tokens):
            if step == 0 and isinstance(cache, RowsCache):
                chosen = self._read_in_pieces(ids, own, positions, cache, names, answers)
            else:
                mask = self._mask(own, ids.shape[1], prefix_length, cache)
                chosen = self._next(ids, mask, positions, cache, names, [answers[row] for row in live])
            for row, token in zip(live, chosen.tolist(), strict=True):
                if ended[row]:
                    continue
                if self.grammar:
                    self.grammar.follow(answers[row], token)
                if token in stops and not timed:
                    ended[row] = True
                else:
                    made[row].append(token)
                    ended[row] = ends is not None and ends.reached(made[row])
            if timed:
                timed()
            if step + 1 == max_new_tokens or all(ended[row] for row in live):
                break
            going = [i for i, row in enumerate(live) if not ended[row]]
            if len(going) < self.knobs.compact_below * len(live):
                keep = torch.tensor(going, device=self.device)
                cache.reorder_cache(keep)  # which every kind of layer has, states of hybrids included
                chosen, own, positions, names = chosen[keep], own[keep], positions[keep], names[keep]
                live = [live[i] for i in going]
            ids = chosen[:, None]
            own = torch.cat([own, own.new_ones(len(live), 1)], dim=1)
            positions = positions[:, -1:] + 1
        return list(zip(made, ended, strict=True))

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Token ids of rows, padded on the left to the longest, and which of them are their own."""
        import torch

        width, pad = max(map(len, rows)), next(iter(self.stops), 0)
        ids = torch.tensor([[pad] * (width - len(r)) + [*r] for r in rows], device=self.device)
        own = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=self.device)
        return ids, own

    def _answers(self, rows: int) -> list[Any]:
        """The matcher of each row's answer; None where any token may come."""
        return [self.grammar and self.grammar.begin() for _ in range(rows)]

    def _next(self, ids: Any, mask: Any, positions: Any, cache: Any, keys: Any, answers: Sequence[Any]) -> Any:
        """The next token of each row."""
        logits = self.model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        ).logits[:, -1]
        return self._chosen(logits, keys, positions[:, -1], answers)

    def _chosen(self, logits: Any, keys: Any, positions: Any, answers: Sequence[Any]) -> Any:
        """A token of each row, of those that its answer allows."""
        if self.grammar:
            logits = forbid(logits, self.grammar.allowed(answers))
        return self.chooser(logits, keys, positions)

    def _read_in_pieces(
        self, ids: Any, own: Any, positions: Any, cache: RowsCache, keys: Any, answers: Sequence[Any]
    ) -> Any:
        """Reads the prompts of a batch, at most `PIECE_TOKENS` tokens at a time: memory for their activations does not
        grow with the batch, and rows beside their like are padded less."""
        import torch

        rows, width = ids.shape
        some = max(1, PIECE_TOKENS // width)
        chosen = []
        for start in range(0, rows, some):
            piece = slice(start, start + some)
            columns = slice(width - int(own[piece].sum(dim=1).max()), width)
            window = cache.piece(piece, columns)
            mask = self._mask(own[piece, columns], columns.stop - columns.start, 0, window)
            places = positions[piece, columns]
            chosen.append(self._next(ids[piece, columns], mask, places, window, keys[piece], answers[piece]))
        cache.fill(width)
        return torch.cat(chosen)

    def _row_cache(self, prefix: Any, begins: Any, capacity: int) -> Any:
        """The cache of a batch that goes on from the prefix, if there is one: shared where attention knows how, which
        also sets room aside for all tokens, else repeated. Tokens of a row before `begins` [rows] are padding."""
        import copy

        from transformers import DynamicCache

        if self.no_prefix:
            return RowsCache(layers(prefix) if prefix else self.no_prefix, begins, capacity)
        if prefix is None:
            return DynamicCache(config=self.model.config)
        cache = copy.deepcopy(prefix)
        cache.batch_repeat_interleave(len(begins))
        return cache

    def _mask(self, own: Any, tokens: int, prefix_length: int, cache: Any) -> Any:
        """Which tokens may be seen: transformers' own [rows, all tokens], or what `shared_prefix.attend` adds to the
        scores of a row's own tokens."""
        import torch

        if not isinstance(cache, RowsCache):
            return torch.cat([own.new_ones(own.shape[0], prefix_length), own], dim=1)
        width = own.shape[1]
        seen = (
            torch.ones(tokens, width, dtype=torch.bool, device=self.device).tril(width - tokens)
            & own[:, None, :].bool()
        )
        seen |= torch.eye(width, dtype=torch.bool, device=self.device)[
            width - tokens :
        ]  # padding sees itself, not nothing
        return torch.zeros(seen.shape, dtype=self.model.dtype, device=self.device).masked_fill(~seen, float("-inf"))[
            :, None
        ]

    def time_tokens(self, prompt: str, new_tokens: int, natural: bool = False, ends: Sequence[str] = ()) -> list[float]:
        """Seconds from sending one prompt to each of its `new_tokens` tokens: element 0 is the time to first
        token. Stop tokens are ignored, so that each request does the same work, unless its `natural` end is wanted, or
        the first of the texts `ends`."""
        import torch
        from transformers import DynamicCache

        ids = torch.tensor(self.encode([prompt], new_tokens), device=self.device)
        key, position = ids.new_zeros(1), ids.new_full((1,), ids.shape[1] - 1)
        cache = DynamicCache(config=self.model.config)
        answers = self._answers(1)
        told, made = Ends(self.tokenizer, ends), []
        stops = self.stops | told.stops
        times: list[float] = []
        with torch.inference_mode():
            settle(self.device)
            start = time.perf_counter()
            for _ in range(new_tokens):
                logits = self.model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1]
                ids = self._chosen(logits, key, position, answers)[:, None]
                arrived = int(ids)  # as it would at a client
                times.append(time.perf_counter() - start)
                if self.grammar:
                    self.grammar.follow(answers[0], arrived)
                made.append(arrived)
                if natural and (arrived in stops or told.reached(made)):
                    break
                position = position + 1
        return times

    def time_batch(
        self, prompts: Sequence[str], new_tokens: int, read: Callable[[], None] = lambda: None
    ) -> list[float]:
        """Seconds of each step of one batch: element 0 reads the prompts (their shared prefix once) and makes the
        first token of each, the others make one more token of each. Stop tokens are ignored. `read` is called, off the
        clock, when the prompts are read."""
        import torch

        encoded = self.encode(prompts, new_tokens)
        length = self.worthwhile_prefix(encoded)
        times: list[float] = []
        with torch.inference_mode():
            settle(self.device)
            last = time.perf_counter()

            def step_done() -> None:
                nonlocal last
                settle(self.device)
                times.append(time.perf_counter() - last)
                if len(times) == 1:
                    read()
                last = time.perf_counter()

            prefix = self._prefix_cache(encoded[0][:length]) if length else None
            own = [e[length:] for e in encoded]
            self._decode(own, range(len(own)), new_tokens, prefix, length, step_done)
        return times
