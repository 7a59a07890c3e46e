"""PagedAttention (SOSP'23), figure 19: to swap a preempted sequence or to compute it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kvlab.reproduce.findings import Claim, Number, Reproduction, Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sim.timing.roofline import Roofline

TITLE = "Swapping against recomputation, by block size"
SOURCE = "PagedAttention, SOSP'23, section 7.3 and figure 19 (OPT-13B, A100-40)"
TARGET = (
    "the shapes: recomputation costs the same at every block size, swapping falls with it; "
    "swapping costs more at small blocks and less at large ones; both cost about the same (a "
    "factor of 2 at most) somewhere from 16 to 64"
)

BLOCKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = 512
LENGTHS = (256, 512, 1024, 2048)
COPY_S = (2e-6, 5e-6, 10e-6, 20e-6)
"""Seconds that each copy over the link takes before its first byte."""


def clock_of(copy_s: float | None = None) -> Roofline:
    """The roofline of the paper's device, with another latency of the link if one is given."""
    from dataclasses import replace

    from sim.budget import Budget
    from sim.hardware import hardware_of
    from sim.model_files.lookup import model_of
    from sim.timing.roofline import Roofline

    sheet = hardware_of("a100-40")
    if copy_s is not None:
        sheet = replace(sheet, link_latency=copy_s)
    return Roofline(Budget(model_of("opt-13b"), bytes=12 * 2**30), sheet)


def swapping(clock: Roofline, tokens: int, block: int) -> float:
    """Seconds to carry a sequence to the host and back.

    K and V of each layer lie in tensors of their own, so each block is two copies a layer and
    way; the last block is carried whole.
    """
    model = clock.model
    blocks = -(-tokens // block)
    copies = 2 * len(model.layers) * blocks
    n_bytes = block * model.token_bytes() // (2 * len(model.layers))
    return sum(copies * clock.swap_seconds(n_bytes, to_host) for to_host in (True, False))


def recomputation(clock: Roofline, tokens: int) -> float:
    """Seconds to compute ``tokens`` tokens in one step; blocks do not come into it."""
    from sim.reads import exact_reads
    from sim.sequence import Sequence
    from sim.step import Placement, Run, Step
    from sim.work import work_of
    from workloads.request import Request

    seq = Sequence(0, Request(0, 0.0, tokens, 1))
    seq.computed = tokens
    step = Step([Run(seq, 0, tokens)])
    reads = exact_reads(clock.groups, step.runs)
    return float(clock.seconds(work_of(step, Placement(step.runs, reads))))


def reproduce(data: Path | None) -> Reproduction:
    """Both ways over block sizes; then at other latencies of a copy and other lengths."""
    del data
    clock = clock_of()
    swaps = [swapping(clock, TOKENS, block) for block in BLOCKS]
    again = recomputation(clock, TOKENS)
    middle = [swap / again for block, swap in zip(BLOCKS, swaps, strict=True) if 16 <= block <= 64]
    nearest = min(max(ratio, 1 / ratio) for ratio in middle)
    return Reproduction(
        numbers=(
            *(
                Number(f"out and in again, blocks of {block}", None, 1e3 * swap, "ms")
                for block, swap in zip(BLOCKS, swaps, strict=True)
            ),
            Number(f"computing {TOKENS} tokens again, any blocks", None, 1e3 * again, "ms"),
            Number(
                "recomputation above swapping, at most",
                20,
                100 * (again / swaps[-1] - 1),
                "%",
                digits=0,
            ),
        ),
        claims=(
            Claim(
                "swapping has an excessive overhead with small blocks",
                f"blocks of 1: {swaps[0] / swaps[-1]:.1f} times those of {BLOCKS[-1]}",
                swaps == sorted(swaps, reverse=True) and swaps[0] > 3 * swaps[-1],
            ),
            Claim(
                "recomputation is better with small blocks, swapping with large ones",
                f"swapping {swaps[0] / again:.1f} times recomputation at 1, "
                f"{swaps[-1] / again:.2f} times at {BLOCKS[-1]}",
                swaps[0] > again > swaps[-1],
            ),
            Claim(
                "from 16 to 64 the two are comparable",
                f"swapping {', '.join(f'{ratio:.2f}' for ratio in middle)} times recomputation",
                nearest <= 2,
            ),
        ),
        sweeps=(_latencies(), _lengths(clock)),
        leaves_open=(
            "How many tokens the sequence of its figure has, and how long a copy takes before its "
            "first byte. Both are swept. The sheet's share of the device's peak decides what "
            "recomputation costs.",
            "How fast its link was. With 25 GB/s, as here, recomputation is further above swapping "
            "at large blocks than its 20 %, which therefore has no target.",
        ),
        notes=(
            "Priced are K and V of every block and layer as copies of their own, as the engine of "
            "the paper had them. In `kvlab compare` a swap is one transfer, whatever the blocks.",
        ),
        curves={"blocks": list(BLOCKS), "swap_s": swaps, "recompute_s": again},
    )


def _latencies() -> Sweep:
    rows = []
    for copy_s in COPY_S:
        clock = clock_of(copy_s)
        again = recomputation(clock, TOKENS)
        ratios = (f"{swapping(clock, TOKENS, block) / again:.2f}" for block in BLOCKS)
        rows.append((f"{1e6 * copy_s:g} us", *ratios))
    columns = ("copy", *(f"{block}" for block in BLOCKS))
    return Sweep(
        "latency of one copy (swapping against recomputation, by block size)", columns, tuple(rows)
    )


def _lengths(clock: Roofline) -> Sweep:
    rows = []
    for tokens in LENGTHS:
        again = recomputation(clock, tokens)
        ratios = (f"{swapping(clock, tokens, block) / again:.2f}" for block in BLOCKS)
        rows.append((f"{tokens:,}", *ratios))
    columns = ("tokens", *(f"{block}" for block in BLOCKS))
    return Sweep(
        "length of the sequence (swapping against recomputation, by block size)",
        columns,
        tuple(rows),
    )


def draw(found: Reproduction) -> Figure:
    """Both costs against the block size."""
    from reports.plots.curves import Curve, Scale, figure_of_curves
    from reports.style import looks_of

    looks = looks_of(("swap", "recompute"))
    again = [1e3 * found.curves["recompute_s"]] * len(BLOCKS)
    curves = [
        Curve("swap out and in", BLOCKS, [1e3 * s for s in found.curves["swap_s"]], looks["swap"]),
        Curve("recompute", BLOCKS, again, looks["recompute"]),
    ]
    return figure_of_curves(
        curves,
        Scale("block size (tokens)", "log2", BLOCKS),
        Scale(f"time for {TOKENS} tokens (ms)", "log10"),
    )
