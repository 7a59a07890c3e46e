"""Our objects, set up as a recorded vLLM engine was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backends.conformance.recording import Record
from sim.budget import Budget
from sim.layers import AttentionSpec, LayerSpec
from sim.model import ModelSpec
from sim.paging.spec import GroupSpec, Layout
from sim.policies.paged import Paged
from sim.schedulers.vllm import VllmScheduler
from sim.schedulers.vllm_async import AsyncVllmScheduler
from sim.sequence import Sequence
from sim.speculation import Speculation
from sim.state import StateSpec
from workloads.errors import InputError
from workloads.prefix import PrefixTree
from workloads.request import Request

_KINDS = {"full": "full", "swa": "swa", "chunked_local": "chunked", "mamba": "recurrent"}

BEHIND_THE_END = 0
"""The token that a recorded engine samples where a request has no more of its own."""


def budget_of(config: Record) -> Budget:
    """Limits of the recorded engine, and a model with one small layer for each of its groups."""
    return Budget(
        model=ModelSpec("recorded", tuple(_layer(group) for group in config["groups"]), 64, 100),
        bytes=0,
        max_seqs=config["max_num_seqs"],
        max_batched_tokens=config["max_num_batched_tokens"],
        max_model_len=config["max_model_len"],
    )


def _layer(group: Record) -> LayerSpec:
    kind = _kind_of(group)
    if kind == "recurrent":
        return LayerSpec(state=StateSpec(kind="shortconv", d_inner=64, d_conv=2))
    window = group.get("window") or group.get("chunk")
    return LayerSpec(
        attention=AttentionSpec(
            heads=1, kv_heads=1, head_dim_k=32, head_dim_v=32, kind=kind, window=window
        )
    )


def _kind_of(group: Record) -> str:
    if group["kind"] not in _KINDS:
        raise InputError(f"unknown kind of cache group {group['kind']!r}")
    return _KINDS[group["kind"]]


def policy_of(config: Record, policy: type[Paged] = Paged) -> Paged:
    """The recorded block pool and its groups."""
    mode = config["mamba_cache_mode"]
    groups = tuple(
        GroupSpec(
            kind=(kind := _kind_of(group)),
            block_size=group["block_size"],
            window=group.get("window") or group.get("chunk") or 0,
            mode=mode if kind == "recurrent" else "",
            layer_ids=(index,),
        )
        for index, group in enumerate(config["groups"])
    )
    options = Paged.Options(
        block_size=config["block_size"],
        prefix_cache=config["enable_prefix_caching"],
        reserve_full_isl=config["scheduler_reserve_full_isl"],
        mamba_cache_mode=mode,
    )
    return policy(budget_of(config), options, Layout(groups, config["num_blocks"], 1 << 20))


def scheduler_of(config: Record, policy: Paged) -> VllmScheduler:
    """The recorded scheduler; with drafts, `RecordedDrafts` say what becomes of them."""
    scheduler = (AsyncVllmScheduler if "in_flight" in config else VllmScheduler)(
        policy,
        VllmScheduler.Options(
            max_seqs=config["max_num_seqs"],
            max_batched_tokens=config["max_num_batched_tokens"],
            max_model_len=config["max_model_len"],
            long_prefill_threshold=config["long_prefill_token_threshold"],
            policy=config["policy"],
            chunked_prefill=config["enable_chunked_prefill"],
        ),
    )
    if "speculation" in config:
        scheduler.speculate(RecordedDrafts(**config["speculation"]))
    return scheduler


class RecordedDrafts(Speculation):
    """Drafts as a recorded step says they were; `tell` it of the step first.

    tokens: most that are drafted. lookahead: whether room is made for as many behind them.
    """

    def __init__(self, tokens: int, lookahead: bool) -> None:
        super().__init__([0.0] * tokens, lookahead=tokens if lookahead else 0)
        self._coming: dict[int, int] = {}
        self._sampled: Counter[int] = Counter()

    def tell(self, record: Record, names: Mapping[str, int]) -> None:
        """The step to come. names: ids of sequences by recorded ids."""
        self._coming = {names[name]: n for name, n in record["drafts"].items()}
        self._sampled = Counter(names[name] for name, _ in record["sampled"])

    def drafts_for(self, seq: Sequence) -> int:
        """What was recorded after the step."""
        return self._coming.get(seq.id, 0)

    def accepted(self, seq: Sequence, drafted: int) -> int:
        """All that was sampled but the model's own token."""
        return self._sampled[seq.id] - 1


@dataclass(frozen=True, slots=True)
class Output:
    """Token ids that a request generates, as runs of ``(start, n)``."""

    runs: tuple[tuple[int, int], ...]

    def token(self, index: int) -> int:
        """The token at ``index``; drafts may be accepted behind the last one."""
        for start, n in self.runs:
            if index < n:
                return start + index
            index -= n
        return BEHIND_THE_END


class Requests:
    """The recorded requests as sequences, with equal prefixes made equal paths.

    Ids are texts there and numbers here: numbers with as many digits each, in the order of the
    texts, since vLLM breaks ties by comparing ids as text.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        records = list(records)
        first = 10 ** len(str(len(records)))
        numbers = {name: first + i for i, name in enumerate(sorted(r["id"] for r in records))}
        self.names = {number: name for name, number in numbers.items()}
        self.outputs: dict[int, Output] = {}
        self.arrivals: list[tuple[int, Sequence]] = []
        self.by_name: dict[str, Sequence] = {}
        tree = PrefixTree()
        for record in records:
            seq = _sequence(numbers[record["id"]], record, tree)
            self.by_name[record["id"]] = seq
            self.arrivals.append((record["arrival"], seq))
            self.outputs[seq.id] = Output(tuple((start, n) for start, n in record["output"]))


def _sequence(number: int, record: Record, tree: PrefixTree) -> Sequence:
    prompt = sum(n for _, n in record["prompt"])
    request = Request(
        id=number,
        arrival=record["arrival_time"],
        prompt=prompt,
        output=record["max_tokens"],
        path=tree.path([*record["prompt"], *record["output"]], record["salt"]),
        priority=record["priority"],
    )
    seq = Sequence(number, request)
    seq.min_tokens = record["min_tokens"]
    seq.reads_cache = not record["skip_cache_read"]
    return seq
