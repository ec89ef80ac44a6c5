"""Text of others made safe: in a terminal, in Markdown, on a page, and in a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.resources import resource
from harness.types import Json

# What no escaping of HTML or Markdown touches, and what can still hide text, turn it round or break an XML file.
# Joiners stay: Persian and emoji are written with them.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufffe\uffff]"
)


def visible(text: Any) -> str:
    """Text as it can be shown: control characters and marks that turn the writing direction become `⟨U+202E⟩`."""
    return INVISIBLE.sub(lambda m: f"⟨U+{ord(m[0]):04X}⟩", str(text))


def markdown_text(text: Any) -> str:
    """A line that Markdown shows as it is, in a table too: markup is escaped, `@name` calls nobody and no address is a
    link. What begins no tag (`p < 0.05`) stays, to be read in a terminal."""
    escaped = re.sub(r"([\\`*_\[\]>|#~$&])", r"\\\1", " ".join(visible(text).split()))
    escaped = re.sub("<(?=[A-Za-z/!?])", "&lt;", escaped)
    escaped = re.sub(r"(?i)\b(www)\.", "\\1\u2060.", re.sub(r"@(?=\w)", "@\u2060", escaped))
    return escaped.replace("://", ":\u2060//")


def markdown_table(heads: Sequence[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """The lines of a table in Markdown, with an empty one behind it."""

    def line(values: Iterable[str]) -> str:
        return "| " + " | ".join(values) + " |"

    return [
        line(map(markdown_text, heads)),
        line("---" for _ in heads),
        *(line(map(markdown_text, r)) for r in rows),
        "",
    ]


def terminal_text(text: Any) -> str:
    """Text that a rich console prints as it stands: markup is escaped, and control characters are visible."""
    from rich.markup import escape

    return escape(visible(text))


def config_text(text: str) -> str:
    """A text that OmegaConf reads as it stands: `${` begins no interpolation after a backslash, and backslashes before
    it are doubled."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def config_value(value: Json) -> str:
    """A value that Hydra's grammar of overrides reads as it stands."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        inner = re.sub(r"(\\*)'", lambda m: 2 * m[1] + "\\'", config_text(value))  # they count only before a quote
        return "'" + re.sub(r"(\\+)$", lambda m: 2 * m[1], inner) + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{config_value(v)}" for k, v in value.items()) + "}"
    return "[" + ",".join(map(config_value, value)) + "]" if isinstance(value, Sequence) else repr(value)


def page(template: str, values: Mapping[str, Any]) -> str:
    """A page of `reports/`, drawn from plain values: all text is escaped and visible."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(resource("reports")), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda v: visible(v) if type(v) is str else v,
    )  # fmt: skip
    return templates.get_template(template).render(values)
