from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.page import Section, read_sections, update_report, write_report


class Links(HTMLParser):
    """Collects every address that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def section(key: str, body: str = "<p>text</p>", *, title: str = "A title") -> Section:
    return Section(key=key, title=title, body=body)


def test_page_needs_no_network(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, [section("one", '<img alt="x" src="data:image/png;base64,AAAA">')])
    page = path.read_text()
    links = Links()
    links.feed(page)
    assert links.found == ["data:,", "#one", "data:image/png;base64,AAAA"]
    assert "url(" not in page
    assert "@import" not in page


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


@given(words, words, words)
def test_what_is_written_can_be_read_back(
    tmp_path_factory: pytest.TempPathFactory, title: str, lead: str, subtitle: str
) -> None:
    path = tmp_path_factory.mktemp("page") / "report.html"
    sections = [
        Section(key="first", title=title, lead=lead, body="<p>one</p>\n<p>two</p>"),
        Section(key="second", title="--> " + title, lead="<!-- x -->", body=""),
    ]
    write_report(path, sections, title=title, subtitle=subtitle)
    assert read_sections(path) == sections


def test_titles_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, [section("one", title="a <b> & c")], title="<script>", subtitle="<i>")
    page = path.read_text()
    assert "a &lt;b&gt; &amp; c" in page
    assert "<title>&lt;script&gt;</title>" in page
    assert "<i>" not in page.split("</header>")[0].split("<header>")[1]


def test_update_replaces_one_section_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, [section("one"), section("two"), section("three")], title="T", subtitle="S")
    update_report(path, [section("two", "<p>new</p>"), section("four")], title="ignored")
    found = read_sections(path)
    assert [one.key for one in found] == ["one", "two", "three", "four"]
    assert found[1].body == "<p>new</p>"
    assert found[0].body == "<p>text</p>"
    assert "<h1>T</h1>" in path.read_text()
    assert '<p class="subtitle">S</p>' in path.read_text()


def test_update_begins_a_report_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    update_report(path, [section("one")], title="New")
    assert [one.key for one in read_sections(path)] == ["one"]
    assert "<h1>New</h1>" in path.read_text()


def test_a_foreign_page_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("<html>mine</html>")
    with pytest.raises(ValueError, match="not a report that this program wrote"):
        update_report(path, [section("one")])
    assert path.read_text() == "<html>mine</html>"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        write_report(tmp_path / "none" / "report.html", [])
