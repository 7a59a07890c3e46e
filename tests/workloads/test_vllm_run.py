"""Reading a measured vLLM run: clocks, order, prefix identity, and what is refused."""

import json

import pytest

from workloads.errors import InputError
from workloads.prefix import common_prefix
from workloads.traces.vllm_run import VllmRun

WALL, MONOTONIC = 1_777_000_000.0, 479_000.0


def row(number, arrival, queued, first=1.0, last=2.0, prompt=3, output=4):
    return {
        "request_id": f"bench-{number}",
        "input_toks": prompt,
        "output_toks": output,
        "arrival_time": WALL + arrival,
        "queued_ts": MONOTONIC + queued,
        "scheduled_ts": MONOTONIC + queued,
        "first_token_ts": MONOTONIC + queued + first,
        "last_token_ts": MONOTONIC + queued + last,
    }


def write(root, rows, prompts=None):
    (root / "requests.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if prompts is not None:
        lines = [json.dumps({"input_tok_ids": prompt}) for prompt in prompts]
        (root / "workload.jsonl").write_text("\n".join(lines))
    return root


def test_both_clocks_start_with_the_first_arrival(tmp_path):
    # The second request is taken in 0.25 s after it came, the others 0.125 s after.
    rows = [row(0, 10.0, 5.125), row(1, 10.5, 5.75), row(2, 11.0, 6.125)]
    run = VllmRun(write(tmp_path, rows))
    assert run.times.arrival.tolist() == [0.0, 0.5, 1.0]
    assert run.times.queued.tolist() == [0.0, 0.625, 1.0]
    assert run.times.first_token.tolist() == [1.0, 1.625, 2.0]
    assert run.times.last_token.tolist() == [2.0, 2.625, 3.0]


def test_requests_come_in_the_order_of_their_arrival(tmp_path):
    rows = [row(0, 2.0, 2.0, prompt=5), row(1, 1.0, 1.0, prompt=7, output=9)]
    run = VllmRun(write(tmp_path, rows, [[1, 2, 3, 4, 5], [1, 2, 3, 9, 9, 9, 9]]))
    requests = list(run.traffic().arrivals())
    assert [(r.id, r.arrival, r.prompt, r.output) for r in requests] == [
        (0, 0.0, 7, 9),
        (1, 1.0, 5, 4),
    ]
    assert run.prompts.tolist() == [7, 5] and run.outputs.tolist() == [9, 4]


def test_prompts_share_by_their_tokens_and_outputs_never(tmp_path):
    prompts = [[1, 2, 3], [1, 2, 3], [1, 2, 8]]
    run = VllmRun(write(tmp_path, [row(i, i, i) for i in range(3)], prompts))
    first, second, third = (request.path for request in run.traffic().arrivals())
    assert run.prefix_identity == "exact"
    assert common_prefix(first, second) == 3
    assert common_prefix(first, third) == 2
    assert [path[-1][1] for path in (first, second, third)] == [7, 7, 7]


def test_without_token_ids_nothing_is_shared(tmp_path):
    run = VllmRun(write(tmp_path, [row(0, 0.0, 0.0)]))
    assert run.prefix_identity.startswith("none")
    assert next(run.traffic().arrivals()).path is None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"arrival_time": None}, "requests.jsonl:1: arrival_time: expected seconds"),
        ({"input_toks": 0}, "requests.jsonl:1: input_toks: expected a whole number from 1"),
        ({"first_token_ts": 0.0}, "requests.jsonl:1: expected queued_ts <= first_token_ts"),
    ],
)
def test_rows_that_cannot_be_are_refused(tmp_path, change, line):
    with pytest.raises(InputError, match=line):
        VllmRun(write(tmp_path, [row(0, 0.0, 0.0) | change]))


def test_token_ids_must_fit_the_requests(tmp_path):
    rows = [row(0, 0.0, 0.0), row(1, 1.0, 1.0)]
    for prompts, line in (
        ([[1, 2]], "workload.jsonl:1: input_tok_ids: expected 3 ids"),
        ([[1, 2, 3]], "workload.jsonl:1: expected 2 requests as in requests.jsonl"),
        ([[1, 2, 3]] * 3, "workload.jsonl:3: expected as many requests"),
        ([[1, 2, "x"]], "workload.jsonl:1: input_tok_ids: expected token ids"),
    ):
        run = VllmRun(write(tmp_path, rows, prompts))
        with pytest.raises(InputError, match=line):
            list(run.traffic().arrivals())


def test_a_run_needs_requests(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        VllmRun(tmp_path)
    with pytest.raises(InputError, match="at least one request"):
        VllmRun(write(tmp_path, []))
