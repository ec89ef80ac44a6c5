"""Serves requests on slots: who gets one, when a step is launched, what is done with its tokens. Pure but for a clock.

Where steps run by themselves once launched, one is launched before the tokens of the step before it are looked at, so
a GPU never waits for the host to find a stop token; a row that has ended is computed once more than needed, and that
token is dropped. A slot that falls free goes to the next request at once, so no batch waits for its longest row.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Protocol

from harness.types import Request, Served

Tokens = Callable[[], list[int]]  # waits for a launched step and gives the new token of each of its rows


class Slots(Protocol):
    """What carries steps out. Both calls launch work in order; where `ahead` is set, they return before it is done."""

    rows: int
    ahead: bool

    def admit(self, prompts: Sequence[Sequence[int]], slots: Sequence[int], keys: Sequence[int]) -> Tokens:
        """Reads prompts into free slots; gives the first token of each. `keys` are those of their requests."""

    def step(self, slots: Sequence[int]) -> Tokens:
        """One more token for the rows in these slots."""


@dataclass(slots=True, eq=False)
class _Row:
    slot: int
    request: Request
    served: Served
    launched: int = 0  # tokens that are made or being made
    ended: bool = False


def serve(
    slots: Slots,
    requests: Sequence[Request],
    stops: Collection[int],
    *,
    rows: int | None = None,
    wait_for: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[int], None] = lambda done: None,
    admitted: Callable[[], None] = lambda: None,
    ended: Callable[[Sequence[int]], bool] = lambda tokens: False,
) -> list[Served]:
    """Answers in the order of the requests, on the first `rows` slots (None: all), up to one of `stops` or to the token
    with which an answer's tokens have `ended`, which is kept. While rows are at work, waiting
    requests are read when `wait_for` slots are free (or as many as there are requests): more at once is better
    throughput, one is the shortest wait. `progress` hears how many are answered, `admitted` is called when the reading
    of some requests is launched."""
    start = clock()
    found: dict[int, Served] = {}
    waiting = deque(sorted(range(len(requests)), key=lambda i: requests[i].due or 0.0))
    free = deque((slot, 0.0) for slot in range(rows or slots.rows))  # and since when: of closed loops, who asks next
    live: list[_Row] = []
    launched: deque[tuple[Tokens, list[_Row]]] = deque()
    done = 0

    def due(i: int) -> bool:
        at = requests[i].due
        return at is None or at <= clock() - start

    def read() -> None:
        nonlocal done
        tokens, stepped = launched.popleft()
        made, now = tokens(), clock() - start
        for row, token in zip(stepped, made, strict=True):
            if row.ended:
                continue
            row.served.times.append(now)
            row.served.finished = token in stops
            if not row.served.finished:
                row.served.tokens.append(token)
                row.served.finished = ended(row.served.tokens)
            if row.served.finished or len(row.served.tokens) == row.request.max_new_tokens:
                row.ended = True
                done += 1
                progress(done)
                live.remove(row)
                free.append((row.slot, now))  # when its client has the answer

    def read_but(some: int) -> None:
        while len(launched) > some:
            read()

    while waiting or live or launched:
        ready = len(list(islice(takewhile(due, waiting), len(free))))
        if ready and (not live or ready >= min(wait_for, len(waiting))):
            taken = [waiting.popleft() for _ in range(ready)]
            news = []
            for i in taken:
                at, (slot, since) = requests[i].due, free.popleft()
                found[i] = Served(since if at is None else at)
                news.append(_Row(slot, requests[i], found[i], launched=1))
            asked = [r.request for r in news]
            first = slots.admit([r.prompt for r in asked], [r.slot for r in news], [r.key for r in asked])
            admitted()
            launched.append((first, news))
            live += news
            if not slots.ahead:
                read_but(0)
        going = [row for row in live if row.launched < row.request.max_new_tokens]
        if going:
            for row in going:
                row.launched += 1
            launched.append((slots.step([row.slot for row in going]), going))
        read_but(1 if going and slots.ahead else 0)
        if waiting and not live and not launched:
            ahead = (requests[waiting[0]].due or 0.0) - (clock() - start)
            if ahead > 0:
                sleep(ahead)
    return [found[i] for i in range(len(requests))]
