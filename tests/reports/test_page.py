from __future__ import annotations

import pytest

from reports.metrics import METRICS, SCHEDULERS_OWN
from reports.page import flat, page_of
from reports.plots import PLOTS, Picture

EVIL = '<script>alert("x")</script>'


def page(runs, pictures):
    directories = {policy: f"run-{index}" for index, policy in enumerate(runs)}
    return page_of(runs, pictures, directories)


@pytest.fixture(scope="module")
def runs(make_run):
    return {
        "paged": make_run("paged"),
        "ring": make_run("ring", slow=2.0),
        EVIL: make_run(EVIL, finish=False),
    }


@pytest.fixture(scope="module")
def text(runs, drawn):
    return page(runs, drawn[1])


def test_page_needs_nothing_else(text, read_page):
    read = read_page(text)
    for tag, attrs in read.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            target = attrs.get(name)
            assert target is None or target.startswith(("data:", "#")), (tag, target)
    assert "@import" not in text and "url(" not in text
    (policy,) = [a for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy["content"]


def test_links_lead_somewhere_and_ids_are_unique(text, read_page):
    read = read_page(text)
    ids = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"][1:] for attrs in read.all("a")}
    assert targets <= set(ids) and len(targets) > 5


def test_names_are_escaped(text, read_page):
    assert EVIL not in text
    read = read_page(text)
    assert len(read.all("script")) == 1
    assert EVIL in read.words


def test_pictures_are_inside_with_words(text, read_page):
    images = read_page(text).all("img")
    assert len(images) == len(PLOTS)
    assert all(a["src"].startswith("data:image/") and len(a["alt"]) > 50 for a in images)


def test_large_drawings_become_raster_images(runs, read_page):
    small = Picture("a", "A", "c.", b"png", b"<svg/>")
    large = Picture("b", "B", "c.", b"png", b"x" * 400_000)
    kinds = [a["src"].partition(";")[0] for a in read_page(page(runs, [small, large])).all("img")]
    assert kinds == ["data:image/svg+xml", "data:image/png"]


def test_metrics_are_explained_where_there_are_values(text, runs, read_page):
    words = read_page(text).words
    for m in METRICS.values():
        assert (m.meaning in words) == (m.name in runs["paged"].summary), m.name
    assert not any(METRICS[name].meaning in words for name in ("running_mean", *SCHEDULERS_OWN))


def test_failures_config_and_values_are_told(text, runs, read_page):
    words = read_page(text).words
    assert "can never fit: needs more cells than the cache has" in words
    for key in ("kv.tokens", "policy.name", "65,536"):
        assert key in words
    assert f"{runs['paged'].summary['output_tokens_per_s']:.1f}" in words


def test_one_policy_without_failures(make_run, read_page):
    words = read_page(page({"paged": make_run("paged")}, [])).words
    assert "None: every policy finished every request." in words
    assert any(word.startswith("Only paged ran") for word in words)


def test_config_is_flat_text():
    config = {"a": {"b": 1_000_000, "c": [1, 2]}, "d": True, "e": 0.5, "n": 2048}
    assert flat(config) == {"a.b": "1,000,000", "a.c": "1, 2", "d": "yes", "e": "0.5", "n": "2048"}


def test_page_works_in_a_browser(text, seen_in_browser):
    """Press every head of the first table twice and write down what a reader then sees."""
    probe = """
    const table = document.querySelector("table"), seen = {};
    for (const head of table.tHead.rows[0].cells) {
      const orders = [];
      for (let i = 0; i < 2; i++) {
        head.querySelector("button").click();
        orders.push([...table.tBodies[0].rows].map((row) => row.cells[0].dataset.value));
      }
      seen[head.querySelector("button").textContent] = orders;
    }
    const numberOf = (cell) => cell.dataset.value ?? cell.textContent.replaceAll(",", "");
    seen.unsorted = [...document.querySelectorAll("th button")].filter((button) => {
      const head = button.closest("th");
      button.click();
      if (head.ariaSort !== "ascending") button.click();
      const values = [...head.closest("table").tBodies[0].rows]
        .map((row) => numberOf(row.cells[head.cellIndex]))
        .filter((value) => value !== "" && !isNaN(value)).map(Number);
      return values.some((value, i) => i > 0 && values[i - 1] > value);
    }).map((button) => button.textContent);
    seen.pictures = [...document.images].map((image) => image.naturalWidth > 0);
    seen.wide = document.documentElement.scrollWidth > window.innerWidth;
    document.title = JSON.stringify(seen);
    """
    seen = seen_in_browser(text, probe)
    assert seen.pop("pictures") == [True] * len(PLOTS)
    assert seen.pop("unsorted") == []
    assert seen.pop("wide") is False
    assert seen["Goodput"] == [[EVIL, "ring", "paged"], ["paged", "ring", EVIL]]
    assert seen["TTFT mean"] == [["paged", "ring", EVIL], ["ring", "paged", EVIL]]
    assert seen["Policy"][0] == sorted(seen["Policy"][0])
