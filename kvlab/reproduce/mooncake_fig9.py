"""Mooncake (FAST'25), figure 9: prefix hits against the capacity of an LRU cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvlab.reproduce.findings import Claim, Number, Reproduction
from workloads.errors import InputError
from workloads.request import PrefixPath, Request

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Prefix hit rate against cache capacity on Mooncake's released traces"
SOURCE = "Mooncake, FAST'25, figure 9 and table of the traces (kvcache-ai/Mooncake)"
TARGET = (
    "within 0.001 of a plain replay of the trace through an LRU list of its hash ids, and within "
    "0.001 of the published figures"
)

BLOCK = 512
_OWN = 1 << 61
"""Branches of tokens that no other request has."""
CAPACITIES = (1_000_000, 3_000_000, 10_000_000, None)
"""Tokens; None: unlimited."""
TRACES = {
    "conversation": ("conversation_trace.jsonl", (0.054, 0.138, 0.291, 0.374)),
    "synthetic": ("synthetic_trace.jsonl", (0.142, 0.315, 0.577, 0.651)),
}
"""File, and token-weighted hit rates by capacity."""
FILES = tuple(file for file, _ in TRACES.values())
REQUEST_MEAN = 0.409
"""Mean over requests of the share of the prompt that is hit: the table's 40 %."""


@dataclass(frozen=True)
class Rates:
    """Hits as a share of all prompt tokens, and as the mean of the requests' shares."""

    tokens: float
    requests: float


def rates_of(hits: Iterator[tuple[int, int]]) -> Rates:
    """The rates of (hit tokens, prompt tokens), one a request."""
    hit = total = number = 0
    shares = 0.0
    for found, prompt in hits:
        hit, total, number = hit + found, total + prompt, number + 1
        shares += found / prompt
    return Rates(hit / total, shares / number)


def served(requests: list[Request], capacity: int | None) -> Iterator[tuple[int, int]]:
    """Hits of the `paged` policy (vLLM's prefix cache), one request after the other.

    A request computes what it does not find and then leaves. As in the trace, the last block of a
    prompt is a block however full it is, and outputs are not kept, for they have no ids.
    """
    from sim.budget import Budget
    from sim.layers import AttentionSpec, LayerSpec
    from sim.model import ModelSpec
    from sim.plugins import policy_of
    from sim.sequence import Sequence
    from sim.step import Run, Step

    attention = AttentionSpec(heads=1, kv_heads=1, head_dim_k=1, head_dim_v=1)
    model = ModelSpec(name="trace", layers=(LayerSpec(attention=attention),), hidden=1, vocab=1)
    tokens = capacity or sum(request.prompt + 2 * BLOCK for request in requests)
    budget = Budget(model, bytes=tokens // BLOCK * BLOCK * model.token_bytes())
    policy = policy_of("paged", budget, {"block_size": BLOCK})
    for number, request in enumerate(requests):
        shared = [(branch, -(-end // BLOCK) * BLOCK) for branch, end in _shared_by(request)]
        end = shared[-1][1] if shared else 0
        path = (*shared, (_OWN + number, end + 1))
        # The one token more lets all blocks be found: the engine always computes at least one.
        seq = Sequence(number, Request(number, 0.0, end + 1, 1, path))
        hit = policy.lookup(seq)
        new = max(1, end - hit)
        if not policy.allocate(seq, new, hit):
            raise InputError(f"request {request.id} of {request.prompt} tokens does not fit")
        seq.computed = hit + new
        policy.commit(Step([Run(seq, hit, new)]))
        policy.release(seq)
        yield min(hit, request.prompt), request.prompt


def _shared_by(request: Request) -> PrefixPath:
    """The path over the prompt; the last branch of the request's is the output's own."""
    return (request.path or ())[:-1]


def _blocks_of(request: Request) -> list[tuple[int, int]]:
    """Branch and number of each of the prompt's blocks: there is one for every id of the trace."""
    blocks: list[tuple[int, int]] = []
    for branch, end in _shared_by(request):
        blocks += [(branch, number) for number in range(len(blocks), -(-end // BLOCK))]
    return blocks


def replayed(requests: list[Request], capacity: int | None) -> Iterator[tuple[int, int]]:
    """The plain reference: one LRU list of blocks, all those of a prompt touched in order."""
    blocks = None if capacity is None else capacity // BLOCK
    recent: OrderedDict[tuple[int, int], None] = OrderedDict()
    for request in requests:
        blocks_of = _blocks_of(request)
        hits = next((i for i, block in enumerate(blocks_of) if block not in recent), len(blocks_of))
        for block in blocks_of:
            recent[block] = None
            recent.move_to_end(block)
        while blocks is not None and len(recent) > blocks:
            recent.popitem(last=False)
        yield min(hits * BLOCK, request.prompt), request.prompt


def reproduce(data: Path | None) -> Reproduction:
    """Replay every trace that is there through both, at every capacity."""
    from workloads.spec import workload_of

    folder = _folder_of(data)
    numbers: list[Number] = []
    claims: list[Claim] = []
    notes: list[str] = []
    curves = {}
    for name, (file, published) in TRACES.items():
        if not (folder / file).is_file():
            notes.append(f"Not checked: {file} is not among the data, so nothing of {name}.")
            continue
        requests = list(workload_of(f"mooncake:{folder / file}").traffic().arrivals())
        found = [rates_of(served(requests, capacity)) for capacity in CAPACITIES]
        plain = [rates_of(replayed(requests, capacity)) for capacity in CAPACITIES]
        numbers += [
            Number(f"{name}, {_words(capacity)}", paper, rates.tokens, "", 0.001, digits=4)
            for capacity, paper, rates in zip(CAPACITIES, published, found, strict=True)
        ]
        if name == "conversation":
            last = found[-1].requests
            numbers.append(
                Number(f"{name}, unlimited, mean of requests", REQUEST_MEAN, last, "", 0.001, 4)
            )
        gap = max(abs(a.tokens - b.tokens) for a, b in zip(found, plain, strict=True))
        claims.append(
            Claim(
                f"{name}: within 0.001 of the plain replay",
                f"largest difference {gap:.5f} over {len(CAPACITIES)} capacities, "
                f"{len(requests):,} requests",
                gap <= 0.001,
            )
        )
        curves[name] = {
            "capacity": list(CAPACITIES),
            "paged": [rates.tokens for rates in found],
            "plain": [rates.tokens for rates in plain],
            "published": list(published),
        }
    return Reproduction(
        numbers=tuple(numbers),
        claims=tuple(claims),
        leaves_open=(
            "Whether a partly filled last block can be hit. Here it can, since the trace gives it "
            "an id; vLLM's own cache would find full blocks only.",
            "In which order the blocks of one prompt age: the plain replay keeps the last ones "
            "longest, vLLM's cache the first ones.",
            "What is kept of outputs: the released ids name prompts only.",
        ),
        notes=tuple(notes),
        curves=curves,
    )


def _folder_of(data: Path | None) -> Path:
    needed = f"expected --data DIR with {' and '.join(FILES)} (kvcache-ai/Mooncake, FAST25-release)"
    if data is None:
        raise InputError(f"mooncake-fig9 reads the released traces: {needed}")
    for folder in (data, data / "mooncake_fast25"):
        if any((folder / file).is_file() for file in FILES):
            return folder
    raise InputError(f"{data}: holds none of the released traces; {needed}")


def _words(capacity: int | None) -> str:
    return "unlimited" if capacity is None else f"{capacity / 1e6:g} M tokens"


def draw(found: Reproduction) -> Figure:
    """Hit rate against capacity, a curve a trace, with the published points."""
    from reports.plots.curves import Curve, Scale, figure_of_curves
    from reports.style import looks_of

    looks = looks_of(TRACES)
    places = range(len(CAPACITIES))
    curves = [
        Curve(f"{name}, {words}", places, curve[column], looks[name], joined=joined)
        for name, curve in found.curves.items()
        for column, words, joined in (("paged", "kvlab", True), ("published", "published", False))
    ]
    names = [_words(capacity) for capacity in CAPACITIES]
    return figure_of_curves(
        curves, Scale("capacity", ticks=places, names=names), Scale("prompt tokens hit", share=True)
    )
