"""`python -m harness.check`: is this candidate worse than its baseline?

Exit codes: 0 pass, 1 regressed, 2 a mistake in the command or its files (no baseline, another suite, another schema),
3 inconclusive or could not measure, 70 a fault of the harness itself, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness import ledger
from harness.check import fresh, outputs, rules, subject
from harness.check.answers import ENDED, chosen, elsewhere, length_trial, of_suites, pairs, rows_to_pass
from harness.check.judge import judge
from harness.check.timing import latency_trials
from harness.check.trial import Judgement, Verdict
from harness.errors import UserError
from harness.escaping import terminal_text
from harness.files import cannot_write
from harness.terminal import Arguments, end_at_sigterm, ended, speaker, tell
from harness.wording import plural

ALL_ROWS = math.inf
EXAMPLES = """
  python -m harness.check outputs/support_tone/TIME --save-baseline baselines/support_tone.json
  python -m harness.check outputs/support_tone/LATER --baseline baselines/support_tone.json
  python -m harness.check RUN --baseline OTHER_RUN --cell A --baseline-cell B         one cell against another
  python -m harness.check --model ./checkpoint --baseline baselines/one_cell.json --budget

exit codes: 0 pass, 1 regressed, 2 mistake in the command or its files, 3 inconclusive or could not measure,
70 a fault of the harness itself, 130 stopped by Ctrl-C, 143 by SIGTERM
"""


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(
        "python -m harness.check", description="The release gate: is this candidate worse than its baseline?",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("given", nargs="*", metavar="RUN | KEY=VALUE", help="a run folder; or, with --model, overrides of its grid")
    add("--baseline", type=Path, help="a baseline file, or a run folder")
    add("--save-baseline", type=Path, metavar="FILE", help="keep RUN as a baseline; with --baseline, where it passes")
    add("--model", help="a fresh checkpoint: evaluate it first, as each cell of the baseline was")
    add("--cell", metavar="ID", help="judge this cell alone: its id, or short name (lora/int8)")
    add("--baseline-cell", metavar="ID", help="against this cell of the baseline (default: the one of the same id)")
    add("--rules", default="default", help="a name in conf/check, or a file (default: default)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change one rule, such as quality.margin=0.03")
    add("--budget", nargs="?", type=_rows_or_override, const=ALL_ROWS, metavar="ROWS",
        help="with --model: rows in a fixed random order until the verdict is certain, at most about ROWS")  # fmt: skip
    add("--out", type=Path, help="where check.html, check.md, junit.xml and check.json go (default: RUN/check)")
    return parser


def _rows_or_override(text: str) -> int | str:
    """The rows of `--budget`; or the override that follows it, which argparse takes for its value. Raises
    `ArgumentTypeError` for what is neither."""
    if "=" in text:
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows; give one such as 120, or none") from None


def _mistakes(a: argparse.Namespace, runs: Sequence[str], changes: Sequence[str]) -> list[str]:
    """What is wrong with a command line by itself."""
    found = []
    if a.baseline is None and a.save_baseline is None:
        found.append(
            "--baseline is missing: give a baseline file or a run folder, or make one with --save-baseline FILE"
        )
    if a.model is None and len(runs) != 1:
        found.append(f"give one run folder, such as outputs/<sweep>/<time> ({len(runs)} given), or --model DIR")
    if a.model is not None and runs:
        found.append(f"--model and a run folder ({runs[0]}): give one of the two")
    if a.model is None and changes:
        found.append(f"{changes[0]}: overrides go with --model; to change a rule use --set {changes[0]}")
    if a.model is None and a.budget is not None:
        found.append("--budget goes with --model: the rows of a run folder are all answered already")
    if a.budget is not None and a.budget <= 0:
        found.append(f"--budget {a.budget}: give a number of rows above 0, or none for all")
    if a.budget is not None and a.save_baseline is not None:
        found.append("--budget and --save-baseline: a baseline holds all rows; leave --budget out to move it on")
    if a.model is not None and a.baseline is None and a.save_baseline is not None:
        found.append(
            "--model takes its configuration from --baseline; to make a first baseline run the grid, then save it"
        )
    files = [run for run in runs if os.path.isfile(run) and not a.out]  # a baseline is no folder to write into
    found += [f"{file}: is a file; give a run folder (a baseline goes to --baseline), or --out" for file in files]
    if a.model is not None:
        found += fresh.misplaced(changes)
    if (to := a.save_baseline) and (
        why := "is a folder"
        if os.path.isdir(to)
        else "is no plain file"
        if os.path.exists(to) and not os.path.isfile(to)
        else cannot_write(Path(os.path.realpath(to)).parent)
    ):
        found.append(f"--save-baseline {to}: cannot be written ({why}); give another file")
    out = a.out or (Path(runs[0]) / "check" if runs else None)
    verdict = [os.path.realpath(out / name) for name in ledger.VERDICT] if out else []
    for flag, file, mend in (("--baseline", a.baseline, "--out"), ("--save-baseline", a.save_baseline, "file")):
        if file and os.path.realpath(file) in verdict:
            found.append(f"{flag} {file}: the verdict is written there; give another {mend}")
    if a.out and (why := cannot_write(a.out)):
        found.append(f"--out {a.out}: cannot be written ({why}); give another folder")
    return found


def _candidate(a: argparse.Namespace, run: str) -> subject.Side:
    side = subject.read(Path(run))
    return side.only(a.cell, "--cell") if a.cell else side


def _baseline(a: argparse.Namespace) -> subject.Side:
    side = subject.read(a.baseline, baseline=True)
    wanted = a.baseline_cell or a.cell
    if wanted and len(side.cells) > 1 and a.save_baseline and a.save_baseline.resolve() == a.baseline.resolve():
        raise UserError(
            f"--save-baseline {a.save_baseline}: it holds {len(side.cells)} cells, and {wanted} alone would take their "
            "place; give another file, or judge all cells"
        )
    return side.only(wanted, "--baseline-cell" if a.baseline_cell else "--cell") if wanted else side


def _judged(a: argparse.Namespace, runs: Sequence[str], changes: Sequence[str]) -> tuple[subject.Side, Judgement, Path]:
    """The candidate, its judgement, and the folder for what is written."""
    limits, baseline = rules.load(a.rules, a.set), _baseline(a).supported()
    if a.model is None:
        candidate = _candidate(a, runs[0])
        return candidate, judge(candidate, baseline, limits), Path(runs[0]) / "check"
    if not Path(a.model).is_dir():
        raise UserError(f"--model {a.model}: no such folder; give a Hugging Face model directory")
    out = ledger.run_folder(fresh.outputs(changes) / "check" / time.strftime("%Y-%m-%d_%H-%M-%S"), fresh=True)
    model = str(Path(a.model).absolute())

    def measure(part: fresh.Part, look: int) -> subject.Side:
        return fresh.evaluate(model, baseline, changes, out / f"look-{look}", part)

    try:
        if a.budget is None:
            candidate = fresh.evaluate(model, baseline, changes, out)
            found = judge(candidate, baseline, limits)
        else:
            candidate, found = fresh.within_budget(baseline, limits, a.budget, measure)
    finally:
        with suppress(OSError):  # it holds something
            out.rmdir()
    return candidate, replace(found, candidate=a.model), out / "check"


def _few(kept: subject.Side, limits: rules.Rules) -> list[str]:
    """A line for the scores and length of each cell of a baseline whose groups are too few to show of answers in other
    words that they are as good, or worth too few for the error rates, where that blocks; and for scores that cannot be
    judged at all. Groups of other sizes are worth fewer: the square of all rows over the sum of the squares of sizes
    (Kish 1965, Survey Sampling)."""
    found: list[str] = []
    names_of = of_suites(kept.cells)
    for c in kept.cells:
        try:
            wanted = chosen(c, c, limits.quality, limits.validity, elsewhere(names_of, c))
        except UserError as error:
            found += error.mistakes
            continue
        asked = [
            (name, section.margin, rows)
            for name, section, unnamed in wanted
            if section.blocks and (rows := [r for r in c.rows if name == ENDED or r.scores.get(name) is not None])
            and not (unnamed and len(rows) < len(c.rows))
        ]  # fmt: skip
        length = length_trial(c.id, pairs(c, c)[0], limits.length, c.knobs.get("suite.max_new_tokens"))
        asked += [(length.metric, length.margin, list(c.rows))] if length and length.blocks and c.rows else []
        few: dict[tuple[int, int, int], list[str]] = {}
        for name, margin, rows in asked if limits.inconclusive == "block" else ():
            sizes = Counter(r.group or r.id for r in rows)
            worth = round(len(rows) ** 2 / sum(n**2 for n in sizes.values()))
            if worth < (least := rows_to_pass(margin, limits.alpha)):
                few.setdefault((len(sizes), worth, least), []).append(name)
        for (groups, worth, least), names in few.items():
            why = (
                f", and it takes {least} to show of a candidate that answers in other words and scores the same that "
                "it is as good; give more rows, or judge by a wider margin (--set)"
                if groups < least
                else f" of other sizes are worth {worth}, fewer than the {least} that the error rates take; a "
                f"candidate that is worse by the margin may pass more often than in {100 * limits.alpha:g}%"
            )
            found.append(f"{c.id}: {', '.join(names)}: {plural(groups, 'group')} of rows{why}")
    return found


def _untimed(kept: subject.Side, limits: rules.Rules) -> list[str]:
    """A line for each cell of a baseline whose times no candidate can pass, not even this run itself."""
    found = []
    for c in (c for c in kept.cells if c.samples):
        trials = latency_trials(c, c, c.id, limits.latency) if limits.latency.blocks else []
        if open_ := [t.metric for t in trials if t.sure is not None or t.p_within > limits.alpha]:
            least = min(len(c.samples.get(name, ())) for name in open_)
            drifted = [f"rounds took up to {c.drift:.2f} times as long as others"] * (c.drift > limits.latency.noise)
            why = "; ".join([*c.noise, *drifted]) or f"{least} requests are too few, or vary too much"
            found.append(
                f"{c.id}: {', '.join(open_)} of this baseline cannot be judged, not even of an unchanged candidate: "
                f"{why}; take it again on a quiet machine (runner.time_again=true) with more requests "
                "(profile.requests, profile.rounds), or judge by --rules answers_only"
            )
    return found


def _keep(kept: subject.Side, path: Path, limits: rules.Rules) -> None:
    """Writes a baseline, and tells of cells that are not in it, and of scores and times that cannot be judged."""
    left = [f"{c.id} is left out of the baseline ({c.failed})" for c in kept.cells if not c.supported]
    whole = kept.supported()
    warned = [*left, *_few(whole, limits), *_untimed(whole, limits)]
    subject.save(kept, path)
    tell(warned, "harness: warning: ")


def _next(a: argparse.Namespace, candidate: subject.Side, found: Judgement) -> tuple[str, subject.Side | None]:
    """What is told of the next baseline, and a candidate that passes as such. The old one stays where the new would
    take its place and is shown to be worse: each release may lose less than the margin, and all together any sum.
    Raises `UserError` where it cannot be kept."""
    open_ = ", ".join(f.trial.metric for f in found.having(Verdict.INCONCLUSIVE, blocks=True))
    worse = ", ".join(f"{f.trial.metric} {outputs.change(f.trial)}" for f in found.having(Verdict.PASS, blocks=True)
        if f.trial.pair and f.trial.pair.delta < 0 and not f.trial.low <= 0 <= f.trial.high)  # fmt: skip
    if found.exit_code or open_:
        why = "the candidate does not pass" if found.exit_code else f"{open_} inconclusive"
        return f"not saved, {why}; the old one stays", None
    in_place = a.save_baseline.resolve() == a.baseline.resolve()
    if worse and in_place:
        return f"not saved, the candidate passes and is shown to be worse: {worse}; the old one stays", None
    luck = "; by what passes it moves up with luck, so judge by a file that stays as well"
    judged = {f.trial.cell for f in found.findings}
    kept = subject.Side(candidate.source, tuple(c for c in candidate.cells if c.id in judged))
    subject.content(kept)
    than = f", shown to be worse than {a.baseline}: {worse}" if worse else ""
    return f"{a.save_baseline}{than}{luck if in_place else ''}", kept


def _run(a: argparse.Namespace, console: Console) -> int:
    if isinstance(a.budget, str):
        a.given, a.budget = [*a.given, a.budget], ALL_ROWS
    changes = [g for g in a.given if "=" in g and not os.path.exists(g)]  # Path's raises for one too long for a name
    runs = [g for g in a.given if g not in changes]
    if mistakes := _mistakes(a, runs, changes):
        raise UserError(mistakes)
    if a.baseline is None:
        _keep(_candidate(a, runs[0]), a.save_baseline, rules.load(a.rules, a.set))
        console.print(terminal_text(f"baseline: {a.save_baseline}"), soft_wrap=True)
        return 0
    if earlier := a.out or (Path(runs[0]) / "check" if runs else None):
        ledger.forget_verdict(earlier)
    candidate, found, folder = _judged(a, runs, changes)
    told, kept = _next(a, candidate, found) if a.save_baseline else ("", None)  # a refusal: 2, so before any verdict
    page = outputs.write(found, a.out or folder, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()))
    if kept:
        _keep(kept, a.save_baseline, found.rules)
    outputs.show(found, console)
    console.print(terminal_text(f"page: {page}"), soft_wrap=True)
    if told:
        console.print(terminal_text(f"baseline: {told}"), soft_wrap=True)
    return found.exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return ended(lambda: _run(_parser().parse_intermixed_args(arguments), speaker()))


if __name__ == "__main__":
    end_at_sigterm()
    sys.exit(main())
