"""A run for other tools: phases of lives, Perfetto, Prometheus, the waterfall, the memory page."""

import base64
import json
import re
import zlib
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.memory_page import memory_page
from reports.perfetto import events_of, write_trace
from reports.phases import KINDS, Phase, phases_of
from reports.plots import waterfall
from reports.prometheus import families_of, lines_of
from workloads.errors import InputError


def life(*, arrival=0.0, queue=1.0, tokens=(2.0, 9.0), pauses=(), kinds=()):
    return SimpleNamespace(
        arrival_s=arrival, queue_s=queue, stretches_s=tokens, pauses_s=pauses, pause_kinds=kinds
    )


def test_a_life_without_a_break():
    phases = [Phase("queued", 0.0, 1.0), Phase("prefill", 1.0, 2.0), Phase("decode", 2.0, 9.0)]
    assert list(phases_of(life())) == phases


def test_a_preempted_life_computes_again_and_a_swapped_one_does_not():
    tokens, pauses = (2.0, 3.0, 7.0, 8.0), (4.0, 6.0)
    preempted = phases_of(life(tokens=tokens, pauses=pauses, kinds=("preempted",)))
    assert [(p.kind, p.start) for p in preempted][3:] == [
        ("stalled", 3.0),
        ("preempted", 4.0),
        ("recompute", 6.0),
        ("decode", 7.0),
    ]
    swapped = phases_of(life(tokens=tokens, pauses=pauses, kinds=("swapped",)))
    assert [p.kind for p in swapped][4:] == ["swapped", "decode", "decode"]


def test_a_preemption_before_the_first_token():
    phases = phases_of(life(tokens=(9.0, 9.0), pauses=(2.0, 5.0), kinds=("preempted",)))
    assert [p.kind for p in phases] == ["queued", "prefill", "preempted", "recompute"]


@given(st.lists(st.sampled_from(("preempted", "swapped", "stalled")), max_size=5))
def test_phases_leave_no_gap_and_no_time_out(breaks):
    tokens, pauses = [2.0], []
    for kind in breaks:
        end = tokens[-1] + 1
        tokens += [end, end + 3]
        pauses += [] if kind == "stalled" else [end + 1, end + 2]
    tokens.append(tokens[-1] + 1)
    kinds = [kind for kind in breaks if kind != "stalled"]
    phases = list(phases_of(life(tokens=tokens, pauses=pauses, kinds=kinds)))
    assert (phases[0].start, phases[-1].end) == (0.0, tokens[-1])
    assert all(a.end == b.start for a, b in pairwise(phases))
    assert {phase.kind for phase in phases} <= set(KINDS)


@pytest.fixture(scope="module")
def run(make_run):
    """A run whose finished requests have lives, the third one with a pause."""
    run = make_run("paged")
    table = run.requests
    first, last = table["arrival_s"] + table["ttft_s"], table["finish_s"]
    a, b = first[2], last[2]
    table.at[2, "stretches_s"] = [a, a, b, b]
    table.at[2, "pauses_s"] = [a, (a + b) / 2]
    table.at[2, "pause_kinds"] = ["preempted"]
    return run


def test_perfetto_has_a_track_a_sequence_and_counters_that_add_up(run, tmp_path):
    write_trace(run, tmp_path / "new" / "trace.json")
    trace = json.loads((tmp_path / "new" / "trace.json").read_text("utf-8"))
    events = trace["traceEvents"]
    tracks = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert sorted(tracks) == sorted(f"request {n}" for n in run.requests["request"])
    spans = [e for e in events if e["ph"] == "X"]
    total = sum(e["dur"] for e in spans) / 1e6
    assert total == pytest.approx(run.finished["e2e_s"].sum())
    assert {"queued", "prefill", "decode", "preempted", "recompute"} == {e["name"] for e in spans}
    memory = [e["args"] for e in events if e["ph"] == "C" and e["name"].startswith("KV memory")]
    assert len(memory) == len(run.timeline)
    assert {sum(part.values()) for part in memory} == {run.timeline["capacity_bytes"].iloc[0]}
    assert sum(e["name"] == "failed" for e in events) == run.summary["requests_failed"]


def test_results_without_pauses_are_refused_in_one_line(make_run):
    run = make_run("paged")
    old = replace(run, requests=run.requests.drop(columns=["stretches_s"]))
    with pytest.raises(InputError, match="lacks 'stretches_s'"):
        list(events_of(old))


def test_metrics_have_vllms_names_and_end_at_the_runs_totals(run):
    families = {family.name: family for family in families_of(run)}
    done = run.finished
    ended = families["request_success"].values[-1]
    ttft = families["time_to_first_token_seconds"]
    assert ended == (done["finish_s"] <= run.timeline["time_s"].iloc[-1]).sum()
    assert families["generation_tokens"].values[-1] == run.timeline["output_tokens"].iloc[-1]
    assert (np.diff(ttft.values, axis=1) >= 0).all() and (np.diff(ttft.values, axis=0) >= 0).all()
    early = done["arrival_s"] + done["ttft_s"] <= run.timeline["time_s"].iloc[-1]
    assert ttft.values[-1, -1] == early.sum()
    assert families["prompt_tokens"].values[-1] == done["prompt"][early].sum()
    hits = families["prompt_tokens_cached"].values[-1]
    assert hits == done["prefix_hit_tokens"][early].sum()
    # Each is registered under this name by vLLM 0.19 (vllm/v1/metrics/loggers.py).
    assert families.keys() == {
        *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"),
        *("prompt_tokens", "prompt_tokens_cached", "generation_tokens", "num_preemptions"),
        *("prefix_cache_queries", "prefix_cache_hits", "request_success"),
        *("time_to_first_token_seconds", "request_time_per_output_token_seconds"),
        *("e2e_request_latency_seconds", "request_queue_time_seconds"),
        *("request_inference_time_seconds", "request_prefill_time_seconds"),
        *("request_decode_time_seconds", "request_prompt_tokens", "request_generation_tokens"),
    }
    assert ttft.sums[-1] == pytest.approx(done["ttft_s"][early].sum())
    lines = list(lines_of(run, epoch=1e9))
    assert lines[-1] == "# EOF" and len(set(lines)) == len(lines)
    sample = re.compile(r'vllm:\w+\{model_name="[^"]*",engine="0"[^}]*\} [-\d.e+]+ \d+\.\d{9}')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)
    times = [float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_r")]
    assert times == sorted(times) and times[0] >= 1e9


def test_prometheus_own_parser_reads_the_text(run):
    parser = pytest.importorskip(
        "prometheus_client.openmetrics.parser", reason="prometheus_client is not installed"
    )
    # It takes buckets of a second moment for copies of the first, so it gets the last one alone.
    last = f"{run.timeline['time_s'].iloc[-1]:.9f}"
    lines = [line for line in lines_of(run, epoch=0.0) if line[0] == "#" or line.endswith(last)]
    text = "\n".join(lines) + "\n"
    families = {f.name: f for f in parser.text_string_to_metric_families(text)}
    assert families["vllm:e2e_request_latency_seconds"].type == "histogram"
    assert families["vllm:num_preemptions"].samples[0].name == "vllm:num_preemptions_total"


def test_a_waterfall_draws_typical_requests_or_those_asked_for(run):
    figure = waterfall.draw({"paged": run}, [2])
    (axes,) = figure.axes
    assert axes.get_title() == "request 2"
    length = sum(bar.get_width() for bar in axes.patches)
    assert length == pytest.approx(run.requests.set_index("request").loc[2, "e2e_s"])
    assert len(waterfall.typical({"a": run, "b": run})) == 3
    with pytest.raises(InputError, match="no request 999"):
        waterfall.draw({"paged": run}, [999])


def test_a_bar_that_would_hide_the_others_is_cut_and_says_where_it_ends(run, make_run):
    slow = make_run("none", slow=40.0)
    runs = {"none": slow, "paged": run, "again": run}
    (axes,) = waterfall.draw(runs, [2]).axes
    ends = [each.requests.set_index("request").loc[2, "e2e_s"] for each in runs.values()]
    assert ends[0] > 10 * ends[1]
    assert ends[1] < axes.get_xlim()[1] < 1.1 * ends[1]
    assert [text.get_text() for text in axes.texts] == [f"to {ends[0]:,.4g} s"]
    (alone,) = waterfall.draw({"none": slow}, [2]).axes
    assert alone.get_xlim()[1] > ends[0]
    assert not alone.texts


def test_the_memory_page_carries_every_owner(run):
    text = memory_page(run, 0.0, 10.0)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))
    packed = zlib.decompress(base64.b64decode(data["caches"][0]["owners"]))
    owners = np.frombuffer(packed, "<i4").reshape(len(data["times"]), -1)
    assert (owners == run.owners(0)).all()
    assert "http:" not in text and "https:" not in text


def test_the_memory_page_works_in_a_browser(make_run, seen_in_browser):
    """Zoom and move with the keyboard, point at a cell, and write down what a reader sees."""
    probe = """
    const canvas = document.querySelector("canvas.map"), words = canvas.nextElementSibling;
    const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
    const wait = setInterval(() => {
      if (!canvas.dataset.ready) return;
      clearInterval(wait);
      const seen = { all: words.textContent };
      press("+"); press("+"); seen.zoomed = words.textContent;
      press("0"); seen.again = words.textContent;
      const box = canvas.getBoundingClientRect();
      const corner = { clientX: box.x + 5, clientY: box.bottom - 5 };
      canvas.dispatchEvent(new PointerEvent("pointermove", corner));
      seen.pointed = words.textContent;
      const [r, g, b] = canvas.getContext("2d").getImageData(2, canvas.height - 3, 1, 1).data;
      seen.color = [r, g, b];
      document.title = JSON.stringify(seen);
    }, 20);
    """
    evil = "</script><script>alert(1)</script>"
    run = make_run(evil)
    text = memory_page(run, 0.0, float(run.timeline["time_s"].max()))
    seen = seen_in_browser(text, probe)
    assert seen["all"] == seen["again"] != seen["zoomed"]
    assert seen["pointed"].endswith("shared by several sequences.")
    assert seen["color"] == [0, 0, 0]
