"""What cards state of licences: under whatever heading people put it, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.licences import Stated, gguf_licence, rows_licence, rows_source


@pytest.mark.parametrize(
    "heading",
    ["# Licence", "## Licence", "## License:", "## Licences", "## LICENSES", "## Licence and source",
     "## Data licence", "### Rows: licensing and source"],
)  # fmt: skip
def test_a_licence_stands_under_any_heading_of_it(tmp_path: Path, heading: str) -> None:
    (tmp_path / "card.md").write_text(f"# mine\n\nIt is.\n\n{heading}\n\nCC BY 4.0,\nby X.\n\n## Scores\n\nMany.\n")
    assert rows_licence(tmp_path) == "CC BY 4.0, by X."


@pytest.mark.parametrize(
    "text",
    ["# Licence questions\n\nWhat people ask of them.\n", "## Licensed drivers\n\nMany.\n",
     "## How it is made\n\nWith a licence.\n", "## Licence\n\nTO FILL: whose rows?\n", ""],
)  # fmt: skip
def test_what_states_no_licence_is_taken_for_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.md").write_text(text)
    assert rows_licence(tmp_path) == ""


def test_the_first_section_that_says_something_counts(tmp_path: Path) -> None:
    card = "## Licences\n\n### Licence of the rows\n\nMIT.\n\n### Licence of the scorers\n\nBSD.\n"
    (tmp_path / "card.md").write_text(f"{card}\n## How the rows were made\n\nBy hand, v1.2. Twice.\n")
    assert rows_licence(tmp_path) == "MIT."
    assert rows_source(tmp_path) == "By hand, v1.2."


@pytest.mark.parametrize(
    ("line", "licence"),
    [
        ("**Licence**: CC-BY-4.0", "CC-BY-4.0"), ("Licence: MIT", "MIT"), ("- **License:** MIT, by X.", "MIT, by X."),
        ("## Licence\n\n```\n# CC0\n```", "CC0"), ("Licence: TO FILL", ""), ("Licence: \n", ""),
        ("Licence: MIT\n\n## Licence\n\nBSD.", "BSD."), ("The licence: see below", ""),
    ],
)  # fmt: skip
def test_a_licence_may_stand_in_a_line_or_in_a_block(tmp_path: Path, line: str, licence: str) -> None:
    (tmp_path / "card.md").write_text(f"# mine\n\nIt is.\n\n{line}\n\n## Scores\n\nMany.\n")
    assert rows_licence(tmp_path) == licence


@pytest.mark.parametrize(
    ("metadata", "stated"),
    [
        ({"": "Apache-2.0"}, Stated("Apache-2.0", "apache-2.0")),
        ({"": "Apache License 2.0"}, Stated("Apache License 2.0", "other")),
        ({"": "other", ".name": "research", ".link": "https://x/L"}, Stated("research", "other", "https://x/L")),
        ({".name": "research"}, Stated("research", "other")),
        ({}, Stated()),
    ],
)
def test_a_gguf_file_names_its_licence(tmp_path: Path, metadata: dict[str, str], stated: Stated) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for key, text in metadata.items():
        writer.add_string(f"general.license{key}", text)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert gguf_licence(gguf.GGUFReader(tmp_path / "x.gguf")) == stated
    assert Stated.of(stated.facts()) == stated
