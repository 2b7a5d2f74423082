"""The frame of a report: one HTML file that needs nothing else, of sections that can be replaced.

A report is its own store: each section stands between two comments, so that a later evaluation can
put its section into the report of a training run without knowing how the others were made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from files import write_text_whole

_HERE = Path(__file__).parent
_TITLES = re.compile(r"<!-- report (\{.*?\}) -->")
_SECTION = re.compile(r"<!-- section (\{.*?\}) -->\n(.*?)\n<!-- end section -->", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of a report.

    `body` is HTML and must hold user text only escaped; `title` and `lead` are plain text.
    """

    key: str  # letters, digits and dashes; a section replaces the one of the same key
    title: str
    body: str
    lead: str = ""

    def __post_init__(self) -> None:
        assert re.fullmatch(r"[a-z0-9-]+", self.key), self.key
        assert "<!-- " not in self.body, "a comment in the body would end the section"


def write_report(
    path: Path,
    sections: Sequence[Section],
    *,
    title: str = "ReLICv2 run",
    subtitle: str = "",
) -> None:
    """Write a report whole or not at all; an existing file is replaced.

    Raises:
        ValueError: the folder does not exist.
    """
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: the folder {path.parent} does not exist")
    page = _page(sections, title=title, subtitle=subtitle)
    write_text_whole(path, page)


def read_sections(path: Path) -> list[Section]:
    """Return the sections of a report.

    Raises:
        ValueError: the file is no report of ours.
    """
    return _parse(path)[1]


def update_report(
    path: Path, sections: Sequence[Section], *, title: str = "ReLICv2 run", subtitle: str = ""
) -> None:
    """Put sections into a report: in place of those of the same key, else at the end.

    Writes a new report with `title` and `subtitle` where there is none.

    Raises:
        ValueError: the folder does not exist, or the file is no report of ours.
    """
    new: tuple[dict[str, str], list[Section]] = ({"title": title, "subtitle": subtitle}, [])
    titles, present = _parse(path) if path.is_file() else new
    merged = {section.key: section for section in present}
    merged.update({section.key: section for section in sections})
    write_report(path, list(merged.values()), **titles)


def _parse(path: Path) -> tuple[dict[str, str], list[Section]]:
    page = path.read_text(encoding="utf-8", errors="replace")
    titles = _TITLES.search(page)
    try:
        if titles is None:
            raise ValueError("no title")
        sections = [Section(body=body, **json.loads(head)) for head, body in _SECTION.findall(page)]
        return json.loads(titles.group(1)), sections
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is not a report that this program wrote ({error}); move it away first"
        ) from error


def _page(sections: Sequence[Section], *, title: str, subtitle: str) -> str:
    links = "".join(f'<a href="#{s.key}">{escape(s.title)}</a>' for s in sections)
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',  # keeps browsers from asking a server for one
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}</style></head>",
            "<body>",
            _comment("report", {"title": title, "subtitle": subtitle}),
            f"<header><h1>{escape(title)}</h1>",
            f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "",
            f"<nav>{links}</nav></header>",
            *(_section(section) for section in sections),
            f"<script>\n{script}</script>",
            "</body></html>\n",
        ]
    )


def _section(section: Section) -> str:
    head = asdict(section)
    del head["body"]
    lead = f'<p class="lead">{escape(section.lead)}</p>' if section.lead else ""
    return (
        f'<section id="{section.key}"><h2>{escape(section.title)}</h2>{lead}\n'
        f"{_comment('section', head)}\n{section.body}\n<!-- end section -->\n</section>"
    )


def _comment(kind: str, value: dict[str, str]) -> str:
    """Return a comment that holds JSON; a comment must not hold two dashes, nor a bracket."""
    text = json.dumps(value).replace("-", "\\u002d").replace(">", "\\u003e")
    return f"<!-- {kind} {text} -->"
