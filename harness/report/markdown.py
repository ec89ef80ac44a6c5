"""The short form, for a pull request or a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.escaping import markdown_table, markdown_text

LIKELY = 5  # cells whose odds are told


def markdown(page: Mapping[str, Any]) -> str:
    """The short form, for a pull request or a terminal: decision, cells, differences, what went wrong."""

    def cell(value: Mapping[str, str]) -> str:
        return f"{value['text']} ({value['interval']})" if value["interval"] else value["text"]

    out = [f"# {markdown_text(page['title'])}", "", *(markdown_text(s) + "\n" for s in page["sentences"])]
    out += _argument(page)
    every, heads = page["all_cells"], ("Quality", "Peak memory", "Cost per 1,000")
    keep = [n for n, c in enumerate(every["columns"]) if c.startswith(heads) or c.endswith("answer p95")]
    out += ["## Cells", ""]
    out += markdown_table(
        ["Cell", "State", *(every["columns"][n] for n in keep)],
        ([r["name"], r["state"], *(cell(r["values"][n]) for n in keep)] for r in every["rows"]),
    )
    if page["load"]["rows"]:
        out += ["## Under load", ""]
        out += markdown_table(
            ["Cell", *page["load"]["columns"]],
            ([r["name"], *(cell(v) for v in r["values"])] for r in page["load"]["rows"]),
        )
    if page["adapters"]:
        out += ["## A LoRA beside its base", "", *(markdown_text(line) + "\n" for line in page["adapters"])]
    if page["differences"]["rows"]:
        against = f"{page['differences']['score']} against {page['differences']['reference']}, on the same rows"
        out += [f"## {markdown_text(against)}", ""]
        out += markdown_table(
            ["Cell", "Points", "95% interval", "p", "p (Holm)", "Gained", "Lost", "Rows"],
            (
                [r["name"], r["delta"], f"{r['low']} to {r['high']}", r["p"], r["holm"], r["gained"], r["lost"], r["n"]]
                for r in page["differences"]["rows"]
            ),
        )
    if page["quantized"]["rows"]:
        out += ["## What quantization changed, against the same adaptation unquantized", ""]
        out += markdown_table(
            [
                "Cell",
                "Points",
                "95% interval",
                f"No worse by {page['quantized']['margin']} points",
                "p of “no worse” (Holm)",
                "Same answer",
            ],
            (
                [r["name"], r["delta"], f"{r['low']} to {r['high']}", r["verdict"], r["holm"], r["same"]]
                for r in page["quantized"]["rows"]
            ),
        )
    out += _evidence(page)
    if page["decision"] and page["decision"].reasons:
        out += ["## Why not the others", ""]
        out += markdown_table(
            ["Cell", "Reason"], ([page["names"][i], why] for i, why in page["decision"].reasons.items())
        )
    elif page["ended_badly"]:
        out += ["## Cells without numbers", ""]
        out += markdown_table(
            ["Cell", "State", "Reason"], ([page["names"][r.id], r.status, r.reason] for r in page["ended_badly"])
        )
    if page["not_measured"]:
        out += ["## Not measured", ""]
        out += markdown_table(
            ["Measure", "Why", "Cells"], ([m["metric"], m["why"], m["cells"]] for m in page["not_measured"])
        )
    out += ["## Limits", "", *(f"- {markdown_text(c)}" for c in page["caveats"]), ""]
    return "\n".join(out)


def _argument(page: Mapping[str, Any]) -> list[str]:
    """How sure the choice is, what would change it, where it stands on the usual way up, and how it was counted."""
    found, out = page["account"], []
    if likely := [
        o for n, o in enumerate(found["odds"]) if o["chosen"] or (n < LIKELY and o["best"] not in ("0%", "<1%"))
    ]:
        out += ["## How sure that is", ""]
        heads = ["Cell", "Best by the policy", "Holds the limits", "On the Pareto front"]
        out += markdown_table(heads, ([o["name"], o["best"], o["feasible"], o["front"]] for o in likely))
    if found["flips"]:
        out += ["## What would change it", "", *(f"- {markdown_text(f['sentence'])}" for f in found["flips"]), ""]
    if found["ladder"]:
        out += ["## The ladder", ""]
        out += markdown_table(["Step", "State", "Evidence"], ([r.name, r.state, r.sentence] for r in found["ladder"]))
    if found["notes"]:
        out += ["## How it was counted", "", *(f"- {markdown_text(n)}" for n in found["notes"]), ""]
    return out


def _evidence(page: Mapping[str, Any]) -> list[str]:
    """What a run measured beside its grid, as far as it did: seeds, learning curves, the A/A control, leakage."""
    out: list[str] = []

    def around(row: Mapping[str, str]) -> str:
        return f"{row['low']} to {row['high']}" if row["low"] else ""

    if rows := page["seeds"]["rows"]:
        out += ["## Seeds: the luck of training and of rows together", ""]
        out += markdown_table(
            ["Cell", "Mean", "95% interval", "Each seed", f"Against {page['seeds']['reference']}", "95% interval"],
            ([r["name"], r["mean"], r["interval"], r["each"], r["delta"], around(r)] for r in rows),
        )
    for curve in page["learning"]:
        out += [f"## Learning curve: {markdown_text(curve['name'])}", "", markdown_text(curve["answer"]), ""]
        out += markdown_table(
            ["Share", "Rows", curve["score"], "95% interval", "Against the share before", "95% interval"],
            ([r["share"], r["rows"], r["text"], r["interval"], r["delta"], around(r)] for r in curve["lines"]),
        )
    if page["control"]:
        out += ["## A/A control: the same cell evaluated twice", ""]
        out += markdown_table(
            ["Cell", "Points", "95% interval", "p", "Same answer", "Called"],
            ([r["name"], r["delta"], around(r), r["p"], r["same"], r["verdict"]] for r in page["control"]),
        )
    for suite in page["leakage"]:
        counted = ([c["source"], c["exact"], c["group"], c["near"]] for c in suite["counts"])
        out += [f"## Leakage: {markdown_text(suite['suite'])}", ""]
        out += [markdown_text(suite["told"]), ""]
        out += markdown_table(
            ["Data", "Rows", "Source", "Licence", "Digest"],
            ([d["what"], d["rows"], d["source"], d["licence"], d["digest"]] for d in suite["card"]),
        )
        if suite["flagged"]:
            out += markdown_table(["Evaluation rows against", "Same text", "Same group", "Alike"], counted)
        if suite["cells"]:
            out += markdown_table(
                ["Cell", "All rows", "Without the flagged", "Rows", "Rows left"],
                ([c["name"], c["all"], c["without"], c["n"], c["left"]] for c in suite["cells"]),
            )
    return out
