"""What replies and groups of rows look like: labels, labels written in two ways, groups too large to be split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any
from unicodedata import east_asian_width, is_normalized

from harness.leakage import typed
from harness.power import groups_needed
from harness.statistics import group_of
from harness.wording import plural

LABELS_AT_MOST, LABEL_LENGTH = 40, 40  # more or longer replies are texts
NAMED = 5  # rows of a label
OF_ITS_OWN = {"label": "class", "group": "group"}
EMPTY = ("nan", "null", "<na>", "#n/a")  # to pandas, databases and spreadsheets
TO_FILL = "TO FILL:"  # what `new` leaves to be written begins so
LARGE = 0.1  # of all rows: a group above it can make parts uneven
KINDS_AT_MOST = 20  # values of a field that sorts rows; more are texts
BY_CHANCE = 1e-6  # rarer than this, the first rows are not like the others
GRID = 14  # comparisons of a grid of 15 cells with its first, which are corrected for


def are_labels(replies: Counter[str]) -> bool:
    """Whether replies, each with the number of its rows, are short and few enough for names of classes."""
    short = all("\n" not in r and len(r) <= LABEL_LENGTH for r in replies)
    return short and len(replies) <= min(LABELS_AT_MOST, replies.total() / 5)


def are_free(replies: Counter[str]) -> bool:
    """Whether texts, each with the number of its rows, are free: most are different, and longer than the name of a
    class, so that hardly any is met word for word. A character of Chinese, Japanese or Korean says as much as two."""
    widths = (sum(1 + (east_asian_width(c) in "WF") for c in reply) for reply in replies)
    return 2 * len(replies) > replies.total() and median(widths) > LABEL_LENGTH


def in_groups(rows: Collection[Mapping[str, Any]], what: str) -> str:
    """So many rows of a kind, and of how many groups."""
    return f"{plural(len(rows), f'{what} row')} ({plural(len(set(map(group_of, rows))), 'group')})"


def folded(label: str) -> str:
    """A label without case, spaces, typography, what is not seen and the zeros of a whole number: 1.0 is 1."""
    bare = "".join(typed(label).casefold().split())
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", bare)


def _shown(label: str) -> str:
    return repr(label) if is_normalized("NFC", label) else ascii(label)


def misspelt(labels: Sequence[tuple[str, str]], what: str = "label") -> list[str]:
    """A line for each label that is another, more frequent one but for how it is written (`folded`): it would be a
    class of its own, and what scorers forgive would leave two. Labels, or groups, of which the same is said, are given
    with where their rows stand."""
    rows: dict[str, list[str]] = {}
    for where, label in labels:
        rows.setdefault(label, []).append(where)
    usual: dict[str, str] = {}
    for label in sorted(rows, key=lambda each: -len(rows[each])):
        usual.setdefault(folded(label), label)
    return [
        f"{places[0]}: {what} {_shown(label)} ({_counted(places)}) is {_shown(other)} ({_counted(rows[other])}) but "
        f"for case, spaces, Unicode form or a .0; write them alike, or rename one that is a {OF_ITS_OWN[what]} of its "
        "own"
        for label, places in rows.items()
        if (other := usual[folded(label)]) != label
    ]


def _counted(places: Sequence[str]) -> str:
    """How many rows, and which: "3 rows: row 2, row 5, row 9"."""
    named = ", ".join(place.rpartition(", ")[2] for place in places[:NAMED])
    return f"{plural(len(places), 'row')}: {named}{', ...' if len(places) > NAMED else ''}"


def unfilled(cells: Sequence[tuple[str, str]], what: str) -> list[str]:
    """A line for each way in which programs write an empty cell, where cells of rows, given with where they stand, have
    that for a reply or a group."""
    rows: dict[str, list[str]] = {}
    for where, cell in cells:
        if cell.casefold() in EMPTY:
            rows.setdefault(cell, []).append(where)
    return [
        f"{places[0]}: {what} {cell!r} ({_counted(places)}) is how an empty cell is written; if it is one, fill it in "
        "or delete the row"
        for cell, places in rows.items()
    ]


def unlearnt(trained: Collection[str], asked: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each label that stands in no training row, so that no answer could be it. The labels asked for are
    given with where their rows stand."""
    rows: dict[str, list[str]] = {}
    for where, label in asked:
        rows.setdefault(label, []).append(where)
    return [
        f"{places[0]}: label {_shown(label)} ({_counted(places)}) stands in no training row; add rows of it in groups "
        "that are not evaluated, or leave these out"
        for label, places in rows.items()
        if label not in trained
    ]


def few_groups(rows: Sequence[Mapping[str, Any]], cells: int = GRID + 1) -> list[str]:
    """What is said of evaluation rows of so few groups that nothing can be shown, or not in a whole grid of so many
    cells. Rows without a group are groups of their own."""
    groups, one, grid = len(set(map(group_of, rows))), groups_needed(), groups_needed(0.05 / max(1, cells - 1))
    if not rows or groups >= grid:
        return []
    what = plural(len(rows), "evaluation row") + (f" of {plural(groups, 'group')}" if groups < len(rows) else "")
    shown = "no difference at all can be shown" if groups < one else "two cells can be compared, all of a grid cannot"
    needed = f"at least {one} groups are needed to compare two cells"
    needed += f", {grid} to compare all of a grid of {cells}" if grid > one else ""
    return [f"{what}: {shown}; {needed}"]


def uneven(parts: Mapping[str, Sequence[Mapping[str, Any]]], due: Mapping[str, float]) -> list[str]:
    """A line where a part of the rows has less than half of the share that is due to it, and a large group is why."""
    rows = [row for part in parts.values() for row in part]
    name, most = Counter(map(group_of, rows)).most_common(1)[0]
    if most <= LARGE * len(rows) or all(len(parts[p]) >= share / 2 * len(rows) for p, share in due.items()):
        return []
    given = ", ".join(f"{len(part)} {p} ({due[p]:.0%} due)" for p, part in parts.items())
    return [f"whole groups make uneven parts: {given}; group {name!r} alone has {most} of {len(rows)} rows: part it, "
            "or group by something finer"]  # fmt: skip


def unlike(head: Sequence[Mapping[str, Any]], rest: Sequence[Mapping[str, Any]], reply: str) -> list[str]:
    """What is said of the first rows of a file, a line for each field of few values (and for the replies that are
    labels) of which they are no chance sample: as those of a file sorted by it."""
    found = []
    for field in dict.fromkeys(name for row in (*head, *rest) for name in row):
        first, others = (Counter(v for row in rows if isinstance(v := row.get(field), str)) for rows in (head, rest))
        every = first + others
        few = are_labels(every) if field == reply else len(every) <= KINDS_AT_MOST
        if len(every) > 1 and few and first and others and _one_source(first, others) < BY_CHANCE:
            of_first, of_others = ({v: n[v] / n.total() for v in every} for n in (first, others))
            most = max(every, key=lambda v: abs(of_first[v] - of_others[v]))
            found.append(f"are of {len(first)} of {len(every)} values of `{field}` ({most!r}: {of_first[most]:.0%} of "
                         f"them, {of_others[most]:.0%} of the others)")  # fmt: skip
    return found


def _one_source(one: Counter[str], other: Counter[str]) -> float:
    """The p-value of Pearson's chi-square test of homogeneity: whether two samples are of one source."""
    from scipy.special import chdtrc

    both = one + other
    expected = [(n, {v: both[v] * n.total() / both.total() for v in both}) for n in (one, other)]
    return float(chdtrc(len(both) - 1, sum((n[v] - due[v]) ** 2 / due[v] for n, due in expected for v in both)))
