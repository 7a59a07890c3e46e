"""vAttention (ASPLOS'25): tokens that one group of pages of virtual memory maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kvlab.reproduce.findings import Claim, Number, Reproduction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Tokens of a page group, and what pages waste"
SOURCE = "vAttention, ASPLOS'25, section on internal fragmentation: block size by page-group size"
TARGET = "equal; smaller page groups waste less"

KIB = 1024
PAGES = (64 * KIB, 128 * KIB, 256 * KIB, 2048 * KIB)
ELEMENT_BYTES = 2
MODELS = {
    # K/V heads, elements of a head, layers.
    "Yi-6B": (4, 128, 32),
    "Llama-3-8B": (8, 128, 32),
    "Yi-34B": (8, 128, 60),
}
PUBLISHED = {
    # Tokens of a group of 64 KiB and of 2 MiB, with the K/V heads on one GPU and on two.
    ("Yi-6B", 1): (64, 2048),
    ("Yi-6B", 2): (128, 4096),
    ("Llama-3-8B", 1): (32, 1024),
    ("Llama-3-8B", 2): (64, 2048),
    ("Yi-34B", 1): (32, 1024),
    ("Yi-34B", 2): (64, 2048),
}
SEQUENCES = 500


def tokens_of(page: int, model: str, gpus: int) -> int:
    """Tokens of one page group: K (or V) of one layer is a tensor of its own, one a request."""
    heads, elements, _ = MODELS[model]
    return page // (heads // gpus * elements * ELEMENT_BYTES)


def waste_of(block: int, seed: int = 0) -> float:
    """Share (%) of mapped memory without a token, over sequences of ShareGPT's mean lengths.

    Page groups of a contiguous virtual tensor and blocks of a table leave the same part of their
    last group unused, so the `paged` policy with blocks of as many tokens counts it.
    """
    import numpy as np

    from sim.budget import Budget
    from sim.model_files.lookup import model_of
    from sim.plugins import policy_of
    from sim.sequence import Sequence
    from workloads.lengths import SHAREGPT_OUTPUT, SHAREGPT_PROMPT
    from workloads.request import Request

    rng = np.random.default_rng(seed)
    prompts = SHAREGPT_PROMPT.draw(rng, SEQUENCES)
    outputs = (SHAREGPT_OUTPUT.draw(rng, SEQUENCES) * rng.random(SEQUENCES)).astype(int) + 1
    model = model_of("llama-3.1-8b")
    cells = SEQUENCES * (4096 + block)
    policy = policy_of(
        "paged", Budget(model, bytes=cells * model.token_bytes()), {"block_size": block}
    )
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        seq = Sequence(number, Request(number, 0.0, int(prompt), int(output)))
        assert policy.allocate(seq, int(prompt + output))
        seq.computed = seq.limit
    usage = policy.usage()[0]
    return 100.0 * int(usage.reserved + usage.internal) / (usage.capacity - int(usage.free))


def reproduce(data: Path | None) -> Reproduction:
    """Tokens of every page-group size, and the memory that sequences leave unused in them."""
    del data
    sizes = {page: tokens_of(page, "Llama-3-8B", 1) for page in PAGES}
    waste = {page: waste_of(block) for page, block in sizes.items()}
    numbers = [
        Number(
            f"{model} on {gpus} GPU{'s' * (gpus > 1)}, {page // KIB:,} KiB",
            published,
            tokens_of(page, model, gpus),
            "tokens",
            0,
            digits=0,
        )
        for (model, gpus), both in PUBLISHED.items()
        for page, published in zip((PAGES[0], PAGES[-1]), both, strict=True)
    ]
    numbers += [
        Number(f"mapped and unused, Llama-3-8B, {page // KIB:,} KiB", None, share, "%")
        for page, share in waste.items()
    ]
    shares = list(waste.values())
    return Reproduction(
        numbers=tuple(numbers),
        claims=(
            Claim(
                "smaller page groups leave less memory unused",
                " < ".join(f"{share:.1f} %" for share in shares),
                shares == sorted(shares),
            ),
        ),
        leaves_open=(
            "The lengths behind its fragmentation figures; the shares here are of sequences of "
            "ShareGPT's mean lengths, each at a random moment of its output.",
            "Nothing is said here of the time that mapping takes: kvlab prices no page tables.",
        ),
        curves={"kib": [page // KIB for page in PAGES], "unused_percent": shares},
    )


def draw(found: Reproduction) -> Figure:
    """Memory without a token against the size of a page group."""
    from reports.plots.curves import Curve, Scale, figure_of_curves
    from reports.style import looks_of

    kib, unused = found.curves["kib"], found.curves["unused_percent"]
    curve = Curve("Llama-3-8B on 1 GPU", kib, unused, looks_of(("pages",))["pages"])
    return figure_of_curves(
        [curve],
        Scale("page group (KiB)", "log2", kib),
        Scale("mapped memory without a token (%)"),
        size=(7.0, 2.8),
    )
