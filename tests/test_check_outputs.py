"""What the release gate writes: valid XML, escaped pages, and the same verdict everywhere."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from lxml import etree
from rich.console import Console

from harness.check import outputs, rules, subject
from harness.check.judge import judge
from harness.check.trial import Judgement, Trial
from tests import gates

WHEN = "2026-11-25T01:02:03"
HOSTILE = (
    "</pre><script>alert(1)</script><img src=x onerror=y> ]]> \x00\x1b[31m \u202e | `a` [x](http://e.org) @all \"'&"
)
# The schema of Ant's JUnit reports, as far as their readers ask for it: order, required attributes, types.
SCHEMA = """
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
<xs:simpleType name="name"><xs:restriction base="xs:token"><xs:minLength value="1"/></xs:restriction></xs:simpleType>
<xs:simpleType name="when">
 <xs:restriction base="xs:dateTime"><xs:pattern value="[^Z+]{19}"/></xs:restriction>
</xs:simpleType>
<xs:complexType name="told"><xs:simpleContent><xs:extension base="xs:string">
 <xs:attribute name="message" type="xs:string"/><xs:attribute name="type" type="xs:string" use="required"/>
</xs:extension></xs:simpleContent></xs:complexType>
<xs:element name="testsuites"><xs:complexType><xs:sequence>
<xs:element name="testsuite" minOccurs="0" maxOccurs="unbounded"><xs:complexType><xs:sequence>
 <xs:element name="properties"><xs:complexType/></xs:element>
 <xs:element name="testcase" minOccurs="0" maxOccurs="unbounded"><xs:complexType><xs:choice minOccurs="0">
   <xs:element name="skipped"/><xs:element name="error" type="told"/><xs:element name="failure" type="told"/>
  </xs:choice>
  <xs:attribute name="name" type="xs:token" use="required"/>
  <xs:attribute name="classname" type="xs:token" use="required"/>
  <xs:attribute name="time" type="xs:decimal" use="required"/>
 </xs:complexType></xs:element>
 <xs:element name="system-out" type="xs:string"/><xs:element name="system-err" type="xs:string"/>
</xs:sequence>
 <xs:attribute name="name" type="name" use="required"/><xs:attribute name="package" type="xs:token" use="required"/>
 <xs:attribute name="id" type="xs:int" use="required"/><xs:attribute name="timestamp" type="when" use="required"/>
 <xs:attribute name="hostname" type="name" use="required"/><xs:attribute name="tests" type="xs:int" use="required"/>
 <xs:attribute name="failures" type="xs:int" use="required"/><xs:attribute name="errors" type="xs:int" use="required"/>
 <xs:attribute name="skipped" type="xs:int"/><xs:attribute name="time" type="xs:decimal" use="required"/>
</xs:complexType></xs:element>
</xs:sequence></xs:complexType></xs:element>
</xs:schema>
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Judgement:
    """A regression whose every text would like to be markup."""
    made = [{**r, "id": f"{r['id']} {HOSTILE}", "message": HOSTILE, "case": HOSTILE} for r in gates.rows()]
    first = gates.run(tmp_path / "first", (gates.cell(made), made))
    bad = [{**r, "output": HOSTILE + r["output"]} for r in gates.worse(made, 0.3)]
    name = f"m/{HOSTILE}/q/support_tone"
    second = gates.run(tmp_path / "second", (gates.cell(bad, slower=1.13, id=name), bad))
    found = judge(subject.read(second), subject.read(first), rules.load("default"))
    return replace(found, notes=(HOSTILE,))


def test_junit_is_valid_and_counts(hostile: Judgement) -> None:
    text = outputs.junit(hostile, WHEN)
    tree = etree.fromstring(text.encode())
    etree.XMLSchema(etree.fromstring(SCHEMA)).assertValid(tree)
    (suite,) = tree
    cases = suite.findall("testcase")
    assert suite.get("tests") == str(len(cases)) == str(len(hostile.findings))
    failed = [c.get("name") for c in cases if c.find("failure") is not None]
    assert failed == ["quality/style"]
    assert suite.get("failures") == "1"
    assert suite.get("errors") == str(len(suite.findall("testcase/error")))


@pytest.mark.parametrize(("name", "element"), [("default", "error"), ("pull_request", "skipped")])
def test_junit_says_of_an_open_metric_what_the_exit_code_says(tmp_path: Path, name: str, element: str) -> None:
    made = gates.rows(n=30)
    changed = gates.worse(made, 0.04)
    first = gates.run(tmp_path / "first", (gates.cell(made), made))
    second = gates.run(tmp_path / "second", (gates.cell(changed), changed))
    found = judge(subject.read(second), subject.read(first), rules.load(name))
    suite = etree.fromstring(outputs.junit(found, WHEN).encode())[0]
    case = next(c for c in suite.findall("testcase") if c.get("name") == "quality/style")
    assert [child.tag for child in case] == [element]
    assert found.exit_code == {"error": 3, "skipped": 0}[element]
    assert ("warning" in outputs.headline(found)) is (element == "skipped")


@pytest.mark.parametrize(("lost", "begins"), [(0.0, "Pass; "), (0.3, "Regressed: quality/style; ")])
def test_what_regressed_without_blocking_stands_in_the_headline(tmp_path: Path, lost: float, begins: str) -> None:
    made = gates.rows()
    changed = gates.worse(made, lost)
    first = gates.run(tmp_path / "first", (gates.cell(made), made))
    second = gates.run(tmp_path / "second", (gates.cell(changed, slower=2.2), changed))
    found = judge(subject.read(second), subject.read(first), rules.load("pull_request"))
    assert outputs.headline(found) == f"{begins}told only: ttft_ms, e2e_ms regressed"


def test_junit_skips_what_the_rules_let_through_whatever_else_regressed(tmp_path: Path) -> None:
    made = gates.rows(n=30)
    changed = [{**r, "finished": i > 14} for i, r in enumerate(gates.worse(made, 0.04))]
    first = gates.run(tmp_path / "first", (gates.cell(made), made))
    second = gates.run(tmp_path / "second", (gates.cell(changed), changed))
    found = judge(subject.read(second), subject.read(first), rules.load("pull_request"))
    suite = etree.fromstring(outputs.junit(found, WHEN).encode())[0]
    kinds = {c.get("name"): [child.tag for child in c] for c in suite.findall("testcase")}
    assert (kinds["ended"], kinds["quality/style"]) == (["failure"], ["skipped"])


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_page_runs_nothing_and_shows_what_flipped(hostile: Judgement) -> None:
    page = outputs.html(hostile)
    tags = Tags()
    tags.feed(page)
    names = {tag for tag, _ in tags.seen}
    assert not names & {"script", "img", "link", "iframe", "form", "object"}
    assert not [a for _, attrs in tags.seen for a in attrs if a.startswith("on") or a in ("src", "href")]
    policy = next(attrs["content"] for tag, attrs in tags.seen if attrs.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert page.count("lost style") == outputs.SHOWN_FLIPS
    assert "60 rows lost a score" in page
    assert "The last 10 are in check.json" in page


def test_markdown_keeps_its_table(hostile: Judgement) -> None:
    text = outputs.markdown(hostile)
    assert text.startswith("### ✗ Regressed: quality/style")
    rows = [line for line in text.split("\n") if line.startswith("| ")]
    bars = [line.replace("\\|", "").count("|") for line in rows]
    assert set(bars) == {8}
    assert "<script" not in text
    assert "x](http" not in text
    assert "@all" not in text


def test_the_terminal_tells_the_same(hostile: Judgement) -> None:
    shown = Console(file=io.StringIO(), width=200, force_terminal=False)
    outputs.show(hostile, shown)
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert outputs.headline(hostile) in text
    assert "(exit 1)" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("metric", "unit", "value", "said"),
    [
        ("e2e_ms", "×", 4788.8, "4.79 s"), ("ttft_ms", "×", 99.0, "99.0 ms"), ("quality/x", "points", 0.915, "91.5%"),
        ("memory_bytes/peak_rss", "×", 1.06e9, "1.06 GB"), ("output_tokens/mean", "×", 47.0, "47.0"),
    ],
)  # fmt: skip
def test_numbers_have_the_digits_of_a_report(metric: str, unit: str, value: float, said: str) -> None:
    trial = Trial("c", metric, True, unit, before=value, after=value)
    assert outputs.told(value, trial) == said


def test_why_is_told_once_of_all_the_metrics_of_a_cell_passes_too(tmp_path: Path) -> None:
    """A baseline file holds rounded times."""
    made, noise = gates.rows(n=30), "other processes kept 1.50 of 2 cores busy"
    record = gates.cell(made)
    latency = {**record.steps["latency"], "facts": {"noise": [noise]}}
    first = gates.run(tmp_path / "first", (replace(record, steps={**record.steps, "latency": latency}), made))
    subject.save(subject.read(first), tmp_path / "first.json")
    found = judge(subject.read(first), subject.read(tmp_path / "first.json"), rules.load("default"))
    outputs.write(found, tmp_path / "out", WHEN)
    terminal = Console(file=io.StringIO(), width=200)
    outputs.show(found, terminal)
    told = [terminal.file.getvalue()]  # type: ignore[attr-defined]
    told += [unescape((tmp_path / "out" / n).read_text()).replace("\\_", "_") for n in ("check.md", "check.html")]
    for text in told:
        assert text.count(f"both were timed unsteadily: {noise}") == 1
        assert text.count("the candidate's times are the baseline's own measurement") == 1
        assert re.search(r"ttft_ms, e2e_ms(</b>)?: ", text)
        assert re.search(r"quality/style, ended(</b>)?: all 30 answers are the same, letter for letter", text)


@pytest.mark.parametrize("other", [True, False])
def test_all_say_which_cell_of_the_baseline_it_was(tmp_path: Path, other: bool) -> None:
    """A cell alone is compared with a cell alone, whatever the two are called."""
    made = gates.rows()
    record = gates.cell(made, "full_ft" if other else "lora")
    first, second = (gates.run(tmp_path / n, (r, made)) for n, r in (("first", record), ("second", gates.cell(made))))
    found = judge(subject.read(second), subject.read(first), rules.load("default"))
    outputs.write(found, tmp_path / "out", WHEN)
    terminal = Console(file=io.StringIO(), width=200)
    outputs.show(found, terminal)
    against = f"against {record.id + ' of ' if other else ''}{first}, rules"
    assert against in terminal.file.getvalue()  # type: ignore[attr-defined]
    for name in ("check.html", "check.md", "junit.xml"):
        assert against in (tmp_path / "out" / name).read_text().replace("\\_", "_"), name
    data = json.loads((tmp_path / "out/check.json").read_text())
    assert data["against"] == (record.id if other else "")


def test_the_rules_are_told_as_they_were_changed(tmp_path: Path) -> None:
    made, base, changes = gates.rows(), tmp_path / "b.json", ["alpha=0.4", "quality.margin=0.3"]
    side = subject.read(gates.run(tmp_path / "first", (gates.cell(made), made)))
    subject.save(side, base)
    found = judge(side, subject.read(base), rules.load("default", changes))
    assert outputs.subtitle(found).endswith(", rules default with alpha=0.4, quality.margin=0.3")
    outputs.write(found, tmp_path / "out", WHEN)
    data = json.loads((tmp_path / "out/check.json").read_text())
    assert (data["schema"], data["time"]) == (2, f"{WHEN}Z")
    assert data["baseline_digest"] == json.loads(base.read_text())["digest"]
    assert "digest" not in data, "which seals a file elsewhere"
    assert (data["rules"]["alpha"], data["rules"]["quality"]["margin"], data["rules"]["length"]["low"]) == (
        0.4,
        0.3,
        0.8,
    )


def test_all_is_written(tmp_path: Path, hostile: Judgement) -> None:
    assert outputs.write(hostile, tmp_path / "out", WHEN) == tmp_path / "out/check.html"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"check.html", "check.md", "junit.xml", "check.json"}
