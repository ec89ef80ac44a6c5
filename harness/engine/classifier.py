"""A model with a classification head behind the interface of an engine: its answer is the name of a class, found by one
forward pass over the prompt and counted as one token."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.engine.fits import within_context
from harness.environment import settle
from harness.loading import Loaded
from harness.prompt import padding
from harness.types import Completion, Context


class ClassifierSession:
    """A loaded classifier with its tokenizer. `batch_size` rows are read at once, those of like length together."""

    def __init__(self, batch_size: int, loaded: Loaded, context: Context) -> None:
        self.batch_size = batch_size
        self.loaded = loaded
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.device = context.device
        self.pad = padding(loaded.tokenizer)
        loaded.model.config.get_text_config().pad_token_id = self.pad  # by which the model finds where a text ends

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        progress: Callable[[int], None] = lambda done: None,
        ends: Sequence[str] = (),
        keys: Sequence[int] = (),
    ) -> list[Completion]:
        """The likeliest class of each rendered prompt, in the order given; `progress` hears how many are done. A class
        is an answer whole and the likeliest, so `max_new_tokens`, `ends` and `keys` ask nothing of it."""
        found: dict[int, Completion] = {}
        for rows, logits in self._read(prompts):
            for i, best in zip(rows, logits.argmax(dim=-1).tolist(), strict=True):
                found[i] = Completion(self.loaded.classes[best], 1, True)
            progress(len(found))
        return [found[i] for i in range(len(prompts))]

    def loglikelihood(
        self, pairs: Sequence[tuple[str, str]], progress: Callable[[int], None] = lambda done: None
    ) -> list[tuple[float, bool]]:
        """For each rendered prompt and continuation: its log probability as a class, and whether that is the likeliest
        class. What is no class can't be answered: minus infinity."""
        found: dict[int, tuple[float, bool]] = {}
        for rows, logits in self._read([prompt for prompt, _ in pairs]):
            for i, chances in zip(rows, logits.log_softmax(dim=-1), strict=True):
                name = pairs[i][1].strip()
                at = self.loaded.classes.index(name) if name in self.loaded.classes else None
                found[i] = (-math.inf, False) if at is None else (float(chances[at]), int(chances.argmax()) == at)
            progress(len(found))
        return [found[i] for i in range(len(pairs))]

    def time_tokens(self, prompt: str, new_tokens: int, natural: bool = False, ends: Sequence[str] = ()) -> list[float]:
        """Seconds from sending one prompt to its class, the one token that is answered whatever `new_tokens` asks."""
        return self.time_batch([prompt], new_tokens)

    def time_batch(
        self, prompts: Sequence[str], new_tokens: int, read: Callable[[], None] = lambda: None
    ) -> list[float]:
        """Seconds until the classes of one batch have arrived: a single element, as there is a single step, after which
        `read` is called."""
        ids = self._encode(prompts)
        settle(self.device)
        start = time.perf_counter()
        self._forward(ids).argmax(dim=-1).tolist()
        times = [time.perf_counter() - start]
        read()
        return times

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        encoded = [list(self.tokenizer(p, add_special_tokens=False).input_ids) for p in prompts]
        within_context(self.model, encoded, 0)
        return encoded

    def _read(self, prompts: Sequence[str]) -> Iterator[tuple[list[int], Any]]:
        """The indices of the rows of a batch with their logits [rows, classes], batch after batch."""
        encoded = self._encode(prompts)
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))  # what memory fits them fits all
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield rows, self._forward([encoded[i] for i in rows])

    def _forward(self, ids: Sequence[list[int]]) -> Any:
        import torch

        width = max(len(row) for row in ids)
        padded = torch.tensor([row + [self.pad] * (width - len(row)) for row in ids], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=self.device)
        with torch.inference_mode():
            return self.model(input_ids=padded, attention_mask=mask, use_cache=False).logits.float()
