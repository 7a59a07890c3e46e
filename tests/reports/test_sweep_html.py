"""The page of a sweep: complete, escaped, needing nothing else, and alive in a browser."""

from __future__ import annotations

import pytest

from reports.html import from_markdown
from reports.plots import Picture
from reports.sweep_html import Section, html_of

EVIL = '<script>alert("x")</script>'
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><path d="M0 0h9v9z"/></svg>'
TABLE = "## `kv-memory`\n\n| figure | kvlab |\n| --- | ---: |\n| b | 9 MiB |\n| a | 10 MiB |\n"


@pytest.fixture
def text(stored):
    stored.index.update(
        title=f"Made up {EVIL}",
        question=f"Why *this*? {EVIL}",
        notes="- [one](javascript:alert(1))\n- ![two](http://elsewhere/x.png)",
    )
    picture = Picture("1-lines", f"Goodput {EVIL}", 'A "caption".', b"", SVG)
    sections = [Section("kv-memory", "Arithmetic", TABLE, picture)]
    return html_of(stored, f"kvlab report {EVIL}", [picture], sections)


def test_it_needs_nothing_else_and_everything_is_escaped(text, read_page):
    assert EVIL not in text
    read = read_page(text)
    assert len(read.all("script")) == 1
    for tag, attrs in read.elements:
        for name in ("src", "href"):
            # Words may link to elsewhere; nothing is fetched from there.
            known = ("data:", "#", "http:") if tag == "a" else ("data:",)
            assert attrs.get(name, "#" if tag == "a" else "data:").startswith(known), attrs
    ids = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"][1:] for attrs in read.all("a") if attrs["href"][:1] == "#"}
    assert targets <= set(ids)
    assert {"answer", "capacity", "failed", "notes", "plot-1-lines", "experiment-1"} <= targets


def test_everything_of_the_sweep_is_told(text, read_page):
    words = " ".join(read_page(text).words)
    for part in (
        "1.25 [1.00, 1.50]",
        "kv_tokens 64: Goodput: best is paged with 1.25 req/s; ring|<b> -50.0 %, p 0.031.",
        "4.00 [2.00, ≥ 8]",
        "no room | at all",
        "1 failed",
        "slo.default.ttft_s",
        "6 seeds (0, 1, 2, 3, 4, 5)",
        "Requests that finished within the stated latency objectives",
    ):
        assert part in words, part


def test_markdown_keeps_its_marks_and_no_html():
    assert from_markdown("*a* `b`\n") == "<p><em>a</em> <code>b</code></p>\n"
    assert "<b>" not in from_markdown("<b>bold</b>\n\n<script>x</script>")
    assert "<a" not in from_markdown("[x](javascript:alert(1))")


def test_it_works_in_a_browser(text, seen_in_browser):
    """Press heads of all three tables and write down what a reader then sees."""
    script = """
    const seen = {};
    const columnOf = (table, place) =>
      [...table.tBodies[0].rows].map((row) => row.cells[place].textContent.trim());
    const [results, capacity, figures] = document.querySelectorAll("table");
    const press = (table, place) =>
      table.tHead.rows[0].cells[place].querySelector("button").click();
    press(results, 2); seen.up = columnOf(results, 2);
    press(results, 2); seen.down = columnOf(results, 2);
    press(results, 0); seen.tokens = columnOf(results, 0);
    press(capacity, 0); seen.capacity = columnOf(capacity, 2);
    press(figures, 1); seen.figures = columnOf(figures, 0);
    seen.pictures = [...document.images].map((image) => image.naturalWidth > 0);
    seen.wide = document.documentElement.scrollWidth > window.innerWidth;
    document.title = JSON.stringify(seen);
    """
    seen = seen_in_browser(text, script)
    assert seen["up"] == sorted(seen["up"])
    assert seen["down"] == sorted(seen["down"], reverse=True)
    assert len(set(seen["up"])) == 3
    assert seen["tokens"] == ["64", "64", "128", "128"]
    assert seen["capacity"] == ["4.00 [2.00, ≥ 8]"]
    assert seen["figures"] == ["b", "a"]
    assert seen["pictures"] == [True, True]
    assert seen["wide"] is False
