"""Tables and pages of a stored sweep, made from made-up results."""

import shutil

from reports.capacity_table import capacity_note, capacity_rows, rates_of
from reports.metrics import metric
from reports.sweep_page import markdown, terminal
from reports.sweep_pictures import pictures_of
from reports.sweep_tables import best_of, differences_of, failures_of, notes_of, table_of


def test_rows_of_a_group_stand_together_with_medians_and_intervals(stored):
    table = table_of(stored)
    assert table.axes == ("kv_tokens", "policy")
    assert [row.labels for row in table.rows] == [
        ("64", "paged"),
        ("64", "ring|<b>"),
        ("128", "paged"),
        ("128", "ring|<b>"),
    ]
    first = table.rows[0].cells[0]
    assert (first.text, first.best) == ("1.25 [1.00, 1.50]", True)
    assert [row.failed for row in table.rows] == [0, 0, 0, 1]
    assert table.rows[3].cells[0].spread.n == 5


def test_only_supported_and_noticeable_differences_are_called_ones(stored):
    best = [[cell.best for cell in row.cells] for row in table_of(stored).rows]
    # Half a per cent is steady and does not count.
    assert best == [[True, False], [False, False], [False, False], [False, False]]
    lines = list(differences_of(stored))
    assert lines[0] == (
        "kv_tokens 64: Goodput: best is paged with 1.25 req/s; ring|<b> -50.0 %, p 0.031."
    )
    assert lines[1] == "kv_tokens 128: Goodput: no difference between paged, ring|<b> is supported."


def test_six_pairs_support_what_five_do_not():
    goodput = metric("goodput_rps")
    high, low = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]
    assert best_of(goodput, [low, high]) == {1}
    assert best_of(goodput, [low[:5], high[:5]]) == set()
    assert best_of(goodput, [low, high, high]) == {1, 2}
    assert best_of(metric("ttft_s.p99"), [low, high]) == {0}
    assert best_of(metric("steps"), [low, high]) == set()
    assert best_of(goodput, [[1.0], [2.0]]) == {1}
    assert best_of(goodput, [[], high]) == set()


def test_capacities_know_their_bounds(stored):
    (row,) = capacity_rows(stored)
    assert row.text == "4.00 [2.00, ≥ 8]"
    assert row.median == 4.0
    assert "at least 90 % of all requests" in capacity_note(stored)


def test_the_page_has_everything_and_escapes_names(stored):
    text = markdown(stored, "kvlab study made-up")
    parts = ("# Made up", "Why?", "Because of *ring*.", "Because.", "## Capacity")
    for part in (*parts, "6 seeds (0, 1, 2, 3, 4, 5)"):
        assert part in text
    assert "ring\\|&lt;b&gt;" in text
    assert "<b>" not in text
    assert "no room \\| at all" in text
    assert "`model` m\\|n" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in rows[:6]} == {5}


def test_every_judged_metric_has_its_sentences(stored):
    stored.index["judged"] = ["goodput_rps", "preemptions"]
    places = [line.split(":")[0:2] for line in differences_of(stored)]
    assert places == [
        ["kv_tokens 64", " Goodput"],
        ["kv_tokens 64", " Preempted"],
        ["kv_tokens 128", " Goodput"],
        ["kv_tokens 128", " Preempted"],
    ]


def test_rows_and_notes_say_what_is_lossy(stored, make_run):
    lossy = make_run("summary", seed=1)
    lossy.summary["lossy"] = "tokens are lost"
    for seed in stored.index["seeds"]:
        shutil.rmtree(stored.root / "points" / f"paged-64-{seed}")
        stored.store_run(f"paged-64-{seed}", lossy)
    assert [row.labels[-1] for row in table_of(stored).rows] == [
        "paged ‡",
        "ring|<b>",
        "paged",
        "ring|<b>",
    ]
    assert any("‡ lossy (tokens are lost)" in line for line in notes_of(stored))


def test_what_searches_found_is_a_picture_within_the_bounds(stored):
    assert rates_of(stored) == {("paged", "64"): [2.0, 3.0, 4.0, 5.0, 8.0, 8.0]}
    assert [picture.name for picture in pictures_of(stored)] == ["capacity"]


def test_the_terminal_shows_the_same(stored):
    from rich.console import Console

    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal(stored))
    text = console.export_text()
    assert "1.25 [1.00, 1.50]" in text
    assert "4.00 [2.00, ≥ 8]" in text
    assert "Failed: no room | at all (ring|<b>, 128)" in text


def test_what_is_missing_is_said(stored):
    assert len(failures_of(stored)) == 1
    assert not any("still to come" in line for line in notes_of(stored))
    shutil.rmtree(stored.root / "points" / "paged-64-0")
    assert "1 points are still to come: the sweep was cut off." in notes_of(stored)
