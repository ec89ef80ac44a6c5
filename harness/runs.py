"""A run folder as read, and what it decides: what reports, comparisons, the index and exports start from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import ledger
from harness.decide import (
    Decision,
    Facts,
    Policy,
    argued,
    beside,
    passes,
    policy_of,
    primary,
    quality,
    reference,
    weights_of,
)
from harness.rows import KeptRows, refuse_others
from harness.types import Json, Measurement, RunRecord, Status, id_parts, is_side
from harness.wording import labels

Row = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as read. `ids` are all cells of the grid in order, ended or not; `side` are the cells that stand
    beside the grid and are not candidates: parts of a learning curve, and the A/A control. `name` is what the run is
    called beside others."""

    folder: Path
    ids: tuple[str, ...]
    records: Mapping[str, RunRecord]
    rows: Mapping[str, Collection[Row]]
    names: Mapping[str, str]
    policy: Policy
    side: tuple[RunRecord, ...] = ()
    name: str = ""

    @property
    def pending(self) -> list[str]:
        """Cells that left no record yet."""
        return [i for i in self.ids if i not in self.records]

    @property
    def ok(self) -> list[RunRecord]:
        """Cells with numbers, in the grid's order."""
        return [r for r in self.records.values() if r.status is Status.OK]

    @property
    def counted(self) -> list[RunRecord]:
        """Those of them whose seed no other way to build lost."""
        out = beside(list(self.records.values()))
        return [r for r in self.ok if r.id not in out]

    @property
    def reference(self) -> RunRecord | None:
        """The cell that others are compared with."""
        return reference(list(self.records.values()), self.policy)

    @property
    def leakage(self) -> Mapping[str, Json]:
        """Overlaps between evaluation rows and what builds saw, by suite."""
        return ledger.read_leakage(self.folder)

    def decided(self) -> tuple[Decision, Facts] | None:
        """The decision and the facts that it rests on; None before all cells have ended."""
        return None if self.pending else argued([*self.records.values(), *self.side], self.rows, self.policy)

    def score(self, record: RunRecord) -> str:
        """The name of the score that the run is decided by: the policy's, else that of the cell's suite."""
        return primary(record, self.policy)

    def quality(self, record: RunRecord) -> Measurement | None:
        """The measurement of that score; None where the cell has none."""
        return quality(record, self.policy)

    def passing(self, cells: Iterable[RunRecord]) -> bool:
        """Whether that score is the share of rows that pass in each of these cells, and not a graded one."""
        return all(passes(m, self.rows.get(r.id, ())) for r in cells if (m := self.quality(r)))

    def judged(self, cells: Collection[RunRecord]) -> str:
        """What that score of these cells is, in words."""
        names = ", ".join(dict.fromkeys(f"“{self.score(r)}”" for r in cells))
        return f"share of rows that pass {names}".rstrip() if self.passing(cells) else f"score {names} of the rows"

    def recommended(self, decision: Decision | None) -> set[str]:
        """The cells of the recipe that was chosen, on the suites that are judged."""
        if decision is None or decision.chosen is None:
            return set()
        weights = weights_of(list(self.records.values()), self.policy)
        cells = decision.judged.get(decision.chosen, ())
        return {decision.chosen, *(i for i in cells if i in self.records and self.records[i].suite in weights)}


def read(folder: Path) -> Run:
    """A run, whose rows' texts are read when they are asked for. Raises `UserError` for a folder or file that cannot be
    read, or rows that are not those of their record."""
    every = {r.id: r for r in ledger.read_records(folder)}
    beside = tuple(r for r in every.values() if is_side(r.id))
    records = {i: r for i, r in every.items() if not is_side(i)}
    ids = tuple(dict.fromkeys([*(i for i in ledger.read_cells(folder) if not is_side(i)), *records]))
    rows = {i: ledger.open_rows(folder, r) for i, r in every.items()}
    for i, kept in rows.items():
        if isinstance(kept, KeptRows):
            refuse_others(kept.path, every[i], kept)
    return Run(folder, ids, records, rows, labels(ids), policy_of(records.values()), beside)


def parts(cell_id: str) -> tuple[str, str, str]:
    """Panel (model, suite, seed and swept knobs), adaptation and quantization of a cell that may have no record yet."""
    model, adaptation, quantization, suite, seed, knobs = id_parts(cell_id)
    return " · ".join(p for p in (model, suite, seed, knobs) if p), adaptation, quantization


def model_name(record: RunRecord) -> str:
    """What people call a record's base model: its name on the Hub, or its file's; else that of its configuration."""
    params = record.params("model")
    return str(params.get("id") or Path(str(params.get("path") or record.model)).name)


def state(run: Run, cell_id: str) -> str:
    """How far a cell is."""
    return str(run.records[cell_id].status) if cell_id in run.records else "pending"
