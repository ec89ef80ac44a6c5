"""A judgement as people and machines read it: terminal, JUnit XML, Markdown for a pull request, and an HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as Xml

from harness.check.trial import Finding, Flip, Judgement, Trial, Verdict
from harness.escaping import markdown_table, markdown_text, page, terminal_text, visible
from harness.ledger import write_text
from harness.types import finite, plain
from harness.wording import labels, number

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_FLIPS = 50
SHOWN_CHARACTERS = 1_500
MARK = {Verdict.PASS: "✓", Verdict.REGRESSED: "✗", Verdict.INCONCLUSIVE: "?", Verdict.NOT_MEASURED: "–"}
COLOUR = {
    Verdict.PASS: "green",
    Verdict.REGRESSED: "red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NOT_MEASURED: "yellow",
}
OUTCOME = {0: "pass", 1: "regressed", 3: "no verdict"}


def headline(found: Judgement) -> str:
    """The verdict in one line, and what is shown to be worse without blocking."""
    worse = _names(found, Verdict.REGRESSED, blocks=False)
    return _verdict_told(found) + (f"; told only: {', '.join(worse)} regressed" if worse else "")


def _verdict_told(found: Judgement) -> str:
    lacking, open_ = _names(found, Verdict.NOT_MEASURED), _names(found, Verdict.INCONCLUSIVE)
    if found.exit_code == 1:
        return f"Regressed: {', '.join(_names(found, Verdict.REGRESSED))}"
    if found.exit_code == 3:
        parts = [f"could not measure {', '.join(lacking)}"] if lacking else []
        parts += [f"inconclusive: {', '.join(open_)}"] if open_ else []
        return f"No verdict: {'; '.join(parts) or 'nothing that blocks was judged'}"
    return "Pass" + (f", with a warning: inconclusive {', '.join(open_)}" if open_ else "")


def _names(found: Judgement, verdict: Verdict, blocks: bool = True) -> list[str]:
    """The metrics of a verdict that block, or that are told alone, with the cells that each is of where several were
    judged."""
    cells = labels(f.trial.cell for f in found.findings)
    where: dict[str, list[str]] = {}
    for f in found.having(verdict, blocks):
        where.setdefault(f.trial.metric, []).append(cells[f.trial.cell])
    return [visible(f"{name} ({', '.join(them)})" if len(cells) > 1 else name) for name, them in where.items()]


def told(value: float, trial: Trial) -> str:
    """A value of a metric with its unit."""
    if not math.isfinite(value):
        return "–"
    if trial.unit == "points":
        return f"{100 * value:.1f}%"
    unit = "ms" if trial.metric.endswith("_ms") else "bytes" if "bytes" in trial.metric else ""
    return number(value, unit).rstrip()


def change(trial: Trial) -> str:
    """How it changed, with the 90% interval where there is one."""
    if not math.isfinite(trial.change):
        return "–"
    if trial.unit == "points":
        text, low, high = (f"{100 * v:+.1f}" for v in (trial.change, trial.low, trial.high))
        text += " points"
    else:
        text, low, high = (f"{v:.3f}" for v in (trial.change, trial.low, trial.high))
        text += " ×"
    return (text if trial.sure else f"{text} ({low} to {high})").replace("-", "−")


def lines(found: Judgement) -> list[dict[str, str]]:
    """A row of text for each finding, the same for all outputs."""
    return [
        {
            "cell": visible(f.trial.cell), "metric": visible(f.trial.metric), "before": told(f.trial.before, f.trial),
            "after": told(f.trial.after, f.trial), "change": change(f.trial), "tolerated": f.trial.tolerated,
            "verdict": str(f.verdict), "mark": MARK[f.verdict], "why": visible(f.sentence),
            "blocks": "yes" if f.trial.blocks else "",
        }
        for f in found.findings
    ]  # fmt: skip


def reasons(told: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Why the metrics of a cell have their verdicts: each sentence once, behind the metrics that it is said of."""
    found: dict[str, list[str]] = {}
    for line in told:
        if line["why"]:
            found.setdefault(line["why"], []).append(line["metric"])
    return [(", ".join(metrics), why) for why, metrics in found.items()]


def subtitle(found: Judgement) -> str:
    """What was compared with what."""
    part = "" if found.share >= 1 else f"; {100 * found.share:.1f}% of the rows were asked"
    cell = f"{found.against} of " if found.against else ""
    return visible(f"{found.candidate} against {cell}{found.baseline}, rules {found.rules.name}{part}")


# ----------------------------------------------------------------------------------------------------------- terminal


def show(found: Judgement, console: Console) -> None:
    """What was compared, a table a cell, and the verdict; a narrow terminal gets neither intervals nor what is
    tolerated."""
    from rich.table import Table

    console.print(terminal_text(subtitle(found)), soft_wrap=True)
    wide = console.width >= 115
    columns = ("metric", "before", "after", "change", *(("tolerated",) if wide else ()))
    for cell, rows in groupby(zip(lines(found), found.findings, strict=True), key=lambda pair: pair[0]["cell"]):
        table = Table(title=terminal_text(cell), title_justify="left", box=None, pad_edge=False)
        for name in ("", *columns, "verdict"):
            table.add_column(name, overflow="fold")
        pairs = list(rows)
        for line, finding in pairs:
            style = COLOUR[finding.verdict] if finding.trial.blocks else "dim"
            verdict = f"[{style}]{line['verdict']}[/]" + ("" if finding.trial.blocks else " (told only)")
            middle = (terminal_text(line[k] if wide else line[k].partition(" (")[0]) for k in columns)
            table.add_row(f"[{style}]{line['mark']}[/]", *middle, verdict)
        console.print(table)
        for metrics, why in reasons([line for line, _ in pairs]):
            console.print(terminal_text(f"  {metrics}: {why}"), soft_wrap=True)
        console.print()
    for note in found.notes:
        console.print(terminal_text(note), soft_wrap=True)
    if found.flips:
        lost = sum(bool(f.lost) for f in found.flips)
        console.print(f"{lost} rows lost a score, {len(found.flips) - lost} only gained; the page shows them")
    console.print(f"[bold]{terminal_text(headline(found))}[/] (exit {found.exit_code})", soft_wrap=True)


# -------------------------------------------------------------------------------------------------------------- files


def write(found: Judgement, out: Path, when: str) -> Path:
    """Writes `check.html`, `check.md`, `junit.xml`, `check.json`; returns the page. `when`: `2026-11-25T01:02:03`."""
    write_text(out / "check.md", markdown(found))
    write_text(out / "junit.xml", junit(found, when))
    made = {"time": f"{when}Z", **as_json(found)}
    write_text(out / "check.json", json.dumps(made, indent=1, ensure_ascii=False))
    write_text(out / "check.html", html(found))
    return out / "check.html"


def as_json(found: Judgement) -> Any:
    """All of a judgement as plain values; numbers that are none are null."""
    return {"schema": 2, "headline": headline(found), **finite(plain(found))}


def junit(found: Judgement, when: str) -> str:
    """JUnit XML: a suite a cell, a case a metric. What blocks fails (regressed) or errs (no verdict); what is only told
    is skipped where it does not pass, and so is what the rules let through with a warning. Where there is no verdict,
    and no case errs, one more does: reporters look at nothing but cases."""
    root = Xml.Element("testsuites")
    judged = found.findings
    if found.exit_code == 3 and not any(_kind(f, found) == "error" for f in judged):
        none = Trial("gate", "verdict", True, "", sure=Verdict.NOT_MEASURED)
        judged = (*judged, Finding(none, Verdict.NOT_MEASURED, math.nan, headline(found)))
    by_cell = [(cell, list(group)) for cell, group in groupby(judged, key=lambda f: f.trial.cell)]
    for at, (cell, findings) in enumerate(by_cell):
        kinds = [_kind(f, found) for f in findings]
        suite = Xml.SubElement(root, "testsuite", {
            "name": _token(cell), "package": "harness.check", "id": str(at), "timestamp": when, "hostname": "localhost",
            "tests": str(len(kinds)), "time": "0",
            **{name: str(kinds.count(kind)) for name, kind in
               (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))},
        })  # fmt: skip
        Xml.SubElement(suite, "properties")
        for kind, finding in zip(kinds, findings, strict=True):
            name = {"name": _token(finding.trial.metric), "classname": _token(cell), "time": "0"}
            case = Xml.SubElement(suite, "testcase", name)
            if kind == "skipped":
                Xml.SubElement(case, kind)
            elif kind:
                message = visible(f"{finding.verdict}: {change(finding.trial)}")
                told = Xml.SubElement(case, kind, {"message": message, "type": str(finding.verdict)})
                told.text = visible(finding.sentence)
        out = Xml.SubElement(suite, "system-out")
        out.text = visible(f"{headline(found)}\n{subtitle(found)}")
        Xml.SubElement(suite, "system-err")
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _kind(finding: Finding, found: Judgement) -> str:
    """The element that a case holds; empty for one that passed."""
    if finding.verdict is Verdict.PASS:
        return ""
    warned = finding.verdict is Verdict.INCONCLUSIVE and found.rules.inconclusive == "warn"
    if not finding.trial.blocks or warned:
        return "skipped"
    return "failure" if finding.verdict is Verdict.REGRESSED else "error"


def _token(text: str) -> str:
    """An xs:token, which keeps no runs of spaces."""
    return " ".join(visible(text).split()) or "cell"


def markdown(found: Judgement) -> str:
    """A comment for a pull request: the verdict, the tables, and which rows flipped by id. Texts of rows stand in the
    page alone: Markdown of others' making could carry links and images."""
    verdict = {0: Verdict.PASS, 1: Verdict.REGRESSED}.get(found.exit_code, Verdict.INCONCLUSIVE)
    parts = [f"### {MARK[verdict]} {markdown_text(headline(found))}", "", markdown_text(subtitle(found)), ""]
    for cell, group in ((c, list(g)) for c, g in groupby(lines(found), key=lambda line: line["cell"])):
        parts += [f"**{markdown_text(cell)}**", ""]
        parts += markdown_table(
            ["", "metric", "before", "after", "change (90% interval)", "tolerated", "verdict"],
            (
                [*(line[k] for k in ("mark", "metric", "before", "after", "change", "tolerated")),
                 line["verdict"] + ("" if line["blocks"] else " (told only)")]
                for line in group
            ),
        )  # fmt: skip
        parts += [*(f"- {markdown_text(metrics)}: {markdown_text(why)}" for metrics, why in reasons(group)), ""]
    parts += [f"- {markdown_text(note)}" for note in found.notes]
    lost = [f for f in found.flips if f.lost]
    if lost:
        ids = ", ".join(markdown_text(f"{f.row} ({', '.join(f.lost)})") for f in lost[:10])
        parts.append(f"{len(lost)} rows lost a score: {ids}{', …' if len(lost) > 10 else ''}")
    return "\n".join(parts).rstrip() + "\n"


def _shown(flip: Flip) -> Flip:
    """A flip whose texts are of bounded length."""

    def text(value: str | None) -> str | None:
        over = len(value or "") - SHOWN_CHARACTERS
        return value if value is None or over <= 0 else f"{value[:SHOWN_CHARACTERS]} … [{over:,} more characters]"

    return replace(flip, message=text(flip.message), before=text(flip.before), after=text(flip.after))


def html(found: Judgement) -> str:
    """The page: verdict, tables, and the rows that flipped with what was answered. All text is escaped; no script."""
    grouped = ((cell, list(group)) for cell, group in groupby(lines(found), key=lambda line: line["cell"]))
    cells = [(cell, told, reasons(told)) for cell, told in grouped]
    view = {
        "headline": headline(found), "outcome": OUTCOME[found.exit_code], "exit_code": found.exit_code, "cells": cells,
        "subtitle": subtitle(found), "notes": list(map(visible, found.notes)),
        "flips": list(map(_shown, found.flips[:SHOWN_FLIPS])), "hidden": max(0, len(found.flips) - SHOWN_FLIPS),
        "lost": sum(bool(f.lost) for f in found.flips), "flipped": len(found.flips),
    }  # fmt: skip
    return page("check.html.j2", view)
