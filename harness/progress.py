"""Tells people how far a grid is: a live table on a terminal, plain lines in a pipe."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from rich.console import Console
from rich.live import Live
from rich.table import Table

from harness.escaping import terminal_text
from harness.launch import Launcher
from harness.plan import Plan
from harness.types import MEASURED, WAITS, Cell, Measurement, RunRecord, Status, Step, StepKind
from harness.wording import labels, number

STATE_STYLE = {"ok": "green", "failed": "bold red", "unsupported": "yellow", "working": "cyan", "waiting": "dim"}


def clock(seconds: float) -> str:
    """`3:07` or `1:02:09`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def alike(kind: str, title: str) -> tuple[str, str]:
    """What steps have in common that take about as long: their component, and of measurements the adaptation, of
    trainings the model."""
    if kind == StepKind.ADAPT:
        return kind, " · ".join(title.split(" · ")[:2])
    return kind, title.partition("/" if kind in MEASURED else " ")[0]


def _number(found: Measurement | None) -> str:
    return number(found.value, found.unit).removesuffix(" tok/s") if found else ""


class Board:
    """Hears of steps and cells; shows them. `expected` has the seconds that earlier steps took, by what is `alike`."""

    def __init__(
        self,
        plan: Plan,
        console: Console,
        expected: Mapping[tuple[str, str], list[float]],
        on_step: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.console = console
        scores = {c.suite.params["primary"] for c in plan.cells}
        self.score = scores.pop() if len(scores) == 1 else "quality"  # what heads the column of each suite's own
        self.expected = {like: [*seconds] for like, seconds in expected.items()}
        self.on_step = on_step
        answering = [c for c in plan.cells if not c.adaptation.params.get("classify")]  # heads do in one step
        tokens = {c.measure.params["latency"]["output_tokens"] for c in answering}
        self.p95 = "p95" + (f", {' to '.join(map(str, sorted(tokens)))} tokens" if tokens else "")  # of whole answers
        self.launcher: Launcher | None = None
        self.records: dict[str, RunRecord] = {}
        self.at_work: dict[str, tuple[float, str, float]] = {}
        self.start = time.monotonic()
        self._names = labels(c.id for c in plan.cells)
        moves = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=2) if moves else None
        self._told: dict[str, int] = {}

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def _clock(self) -> str:
        return clock(time.monotonic() - self.start)

    def say(self, head: str, told: str) -> None:
        """A line with the time since the start, above the table or into the pipe. Its head is markup; the rest may hold
        anybody's text, and is shown as it is."""
        self.console.print(f"[dim]{self._clock():>7}[/]  {head}{terminal_text(told)}", soft_wrap=True)

    def started(self, step: Step) -> None:
        self.at_work[step.key] = (0.0, "", time.monotonic())
        if not self._live:
            self.say("start   ", f"{step.kind:<8} {step.title}")

    def progressed(self, step: Step, fraction: float, note: str) -> None:
        *_, since = self.at_work[step.key]
        self.at_work[step.key] = (fraction, note, since)
        quarter = int(4 * fraction)
        if not self._live and (quarter > self._told.get(step.key, 0) or note == WAITS):
            self._told[step.key] = quarter
            self.say(f"{fraction:>5.0%}   ", f"{step.kind:<8} {step.title}  {note}")

    def ended(self, step: Step, reason: str | None, seconds: float) -> None:
        self.at_work.pop(step.key, None)
        if reason:
            self.say("[red]failed[/]  ", f"{step.kind:<8} {step.title}: {reason}")
        else:
            self.expected.setdefault(alike(step.kind, step.title), []).append(seconds)
            if not self._live:
                self.say("done    ", f"{step.kind:<8} {step.title}  {seconds:.1f} s{self._left()}")
        self.on_step()

    def cell(self, record: RunRecord) -> None:
        """A cell has its record."""
        self.records[record.id] = record
        if not self._live:
            numbers = "  ".join(f"{name} {text}" for name, text in self._numbers(record) if text)
            why = f"  {record.reason}" if record.reason else ""
            self.say("[bold]cell[/]    ", f"{record.status:<8} {record.id}  {numbers}{why}")

    def _numbers(self, record: RunRecord) -> list[tuple[str, str]]:
        """What a line shows of a cell: name and text, the text empty where it was not measured."""
        primary = f"quality/{record.params('suite').get('primary')}"
        p95 = "p95, one step" if "itl_ms" in record.not_measured else self.p95
        shown = [(self.score, primary), (p95, "e2e_ms/p95"), ("tok/s", "throughput_tokens_per_s")]
        return [(name, _number(record.value(metric))) for name, metric in shown]

    def _left(self) -> str:
        if self.launcher is None:
            return ""
        done, failed = self.launcher.done, self.launcher.failed
        todo = [s for s in self.plan.steps.values() if s.key not in done and s.key not in failed]
        known = [self._guess(s) for s in todo]
        if not todo or any(k is None for k in known):
            return "" if not todo else f"  ({len(todo)} steps left)"
        alone = sum(k or 0.0 for s, k in zip(todo, known, strict=True) if s.exclusive)
        shared = sum(k or 0.0 for s, k in zip(todo, known, strict=True) if not s.exclusive)
        spent = sum(time.monotonic() - since for _, _, since in list(self.at_work.values()))
        return f"  (about {clock(max(0.0, alone + (shared - spent) / self.launcher.workers))} left)"

    def _guess(self, step: Step) -> float | None:
        """Seconds that a step may take; None where nobody knows, as of a training unlike all before: one method takes a
        hundred times as long as another."""
        own = self.expected.get(alike(step.kind, step.title), ())
        same = [v for (kind, _), v in list(self.expected.items()) if kind == step.kind is not StepKind.ADAPT]
        seen = [*own] or [*chain.from_iterable(same)]
        return statistics.median(seen) if seen else None

    def render(self) -> Table:
        """The live table, which a thread of its own draws while steps begin and end."""
        table = Table(
            title=f"{len(self.records)} of {len(self.plan.cells)} cells · {self._clock()}{self._left()}",
            expand=True,
        )
        for name in ("cell", "state", "step at work", self.score, self.p95, "tok/s"):
            table.add_column(terminal_text(name), no_wrap=True)
        for cell in self.plan.cells:
            table.add_row(*self._row(cell))
        return table

    def _row(self, cell: Cell) -> Sequence[str]:
        record = self.records.get(cell.id)
        name = terminal_text(self._names[cell.id])
        if record:
            why = terminal_text(record.reason[:60]) if record.status is not Status.OK else ""
            state = f"[{STATE_STYLE[record.status]}]{record.status}[/]"
            return [name, state, why, *(text for _, text in self._numbers(record))]
        keys = self.plan.chains.get(cell.id, {})
        for kind, key in keys.items():
            if found := self.at_work.get(key):
                fraction, note, since = found
                bar = "━" * round(8 * fraction) + "─" * (8 - round(8 * fraction))
                at_work = terminal_text(f"{kind} {bar} {note} {clock(time.monotonic() - since)}")
                return [name, "[cyan]working[/]", at_work, "", "", ""]
        done = sum(1 for key in keys.values() if self.launcher and key in self.launcher.done)
        return [name, "[dim]waiting[/]", f"[dim]{done} of {len(keys)} steps done[/]" if done else "", "", "", ""]
