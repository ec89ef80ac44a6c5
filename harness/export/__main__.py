"""`python -m harness.export RUN --cell best --to DIR`: a deployable folder of a cell, with its model card.

Exit codes: 0 the folder is there and gives the recorded outputs again (or `--check-rows 0` asked for no check), 1 it
does not, and nothing was written, 2 what the user can mend: a mistake in the command, a build that is gone or spoiled,
a check that does not fit this machine; 70 a fault of the harness itself, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path

from harness import ledger
from harness.errors import BrokenArtifact, DoesNotFit, UserError
from harness.escaping import visible
from harness.export import card
from harness.export.check import check, told
from harness.export.choice import BEST, chosen, weights
from harness.export.folder import SUMS, checksums, decode_as_scored, lay_out, place, prompt_as_scored, stop_texts
from harness.export.licences import hub_name, of_data, of_model
from harness.launch import QUIET
from harness.store import MANIFEST, Store
from harness.terminal import Arguments, end_at_sigterm, ended
from harness.types import RunRecord, StepKind

CHECKED_ROWS = 4
UNFIT = "export where the check fits, or without it (--check-rows 0)"
SPOILED = "see with `python -m harness.store verify` whether its build is whole, and whether the libraries are its own"


def served_as(record: RunRecord) -> str:
    """A name for servers and repositories, of letters, digits and `._-`."""
    parts = (record.suite, record.model, record.adaptation, record.quantization)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip("-.")[:96] or "model"


def export(run: Path, name: str, target: Path, rows: int, store: Path | None, force: bool) -> tuple[bool, str]:
    """Exports a cell; returns whether the folder is there, and how its check went. Raises `UserError`,
    `DoesNotFit` where memory or context cannot hold the check, and `BrokenArtifact` where the folder does not load."""
    record, reason = chosen(run, name)
    recorded = ledger.read_rows(run, record)
    if rows and not recorded and StepKind.QUALITY in record.steps:
        raise UserError(
            f"{run}: the rows of {record.id} are not in {run / 'rows'}, so nothing can be checked; keep the run folder "
            "together, or export without the check (--check-rows 0)"
        )
    source = weights(record, run, store)
    ends = stop_texts(record)
    outcome = ""

    def fill(part: Path) -> bool:
        nonlocal outcome
        with ExitStack() as held:
            with suppress(OSError):  # a store that may only be read
                held.enter_context(Store(source.parent.parent).hold([source.name]))
                os.utime(source / MANIFEST)
            try:
                deployment = lay_out(source, part, record, served_as(record), hub_name(record) or record.model, ends)
            finally:
                weights(record, run, store, thorough=False)  # raises where they went meanwhile
        prompt_as_scored(part)
        decode_as_scored(part)
        print(f"checking {visible(record.id)} ...", file=sys.stderr)
        found = check(part, record, recorded, rows)
        outcome = told(found, record) + "".join(f"\n  {line}" for line in found.answers)
        if not found.passed:
            return False
        card.write(part, record, deployment, card.Source(reason, of_model(record), of_data(record), found))
        (part / SUMS).write_text(checksums(part), encoding="utf-8")
        return True

    return place(target, force, fill), outcome


def _run(arguments: Sequence[str] | None) -> int:
    parser = Arguments(
        prog="python -m harness.export", description="Make a deployable folder of a cell, with its model card.",
        epilog=(__doc__ or "").split("\n\n")[-1],
    )  # fmt: skip
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as outputs/support_tone/TIME")
    parser.add_argument("--cell", default=BEST, help="a cell's id or short name (lora/int8), or best: the recommended")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--check-rows", type=int, default=CHECKED_ROWS, metavar="N",
                        help="recorded rows that the folder must answer again (default 4; 0: none)")  # fmt: skip
    parser.add_argument("--store", type=Path, metavar="DIR", help="where the builds stand (default: the run's own)")
    parser.add_argument("--force", action="store_true", help="replace an export that is there")
    given = parser.parse_args(arguments)
    if given.check_rows < 0:
        parser.error(f"--check-rows {given.check_rows}: must be 0 or more")
    os.environ.update({k: os.environ.get(k, v) for k, v in QUIET.items()})
    for name in ("bitsandbytes", "torchao", "torch.utils._pytree"):  # of casts, kernels for others, names that will go
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):  # gptqmodel greets and reports there
            done, outcome = export(given.run, given.cell, given.to, given.check_rows, given.store, given.force)
    except (DoesNotFit, BrokenArtifact) as error:
        mend = UNFIT if isinstance(error, DoesNotFit) else SPOILED
        raise UserError(f"{given.run}: {error}; {mend}") from error
    print(visible(outcome))
    told = f"exported: {given.to}" if done else "nothing was exported; --check-rows 0 exports without this check"
    print(visible(told))
    return 0 if done else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return ended(lambda: _run(arguments))


if __name__ == "__main__":
    end_at_sigterm()
    sys.exit(main())
