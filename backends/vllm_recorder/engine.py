"""vLLM's own scheduler with a model runner that makes tokens up, and a view on what it decides.

Needs vLLM (the user's own install; written for 0.19) and no GPU: the scheduler and the KV-cache
manager are plain Python. Its observers wrap methods of the objects at hand and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from types import SimpleNamespace
from typing import Any

from backends.conformance.recording import Record
from backends.conformance.vllm_setup import BEHIND_THE_END
from backends.vllm_recorder.traffic import expanded
from workloads.errors import InputError


def require_vllm() -> str:
    """The version of the vLLM that can be imported here; `InputError` where there is none."""
    try:
        import vllm
        import vllm.v1.core.sched.scheduler
    except ImportError as error:
        raise InputError(
            f"--engine vllm: needs vLLM in this Python ({error}); its install guide is at "
            "docs.vllm.ai"
        ) from None
    return str(vllm.__version__)


class Engine:
    """A scheduler set up as the ``config`` of a header says."""

    def __init__(self, config: Record, log_stats: bool = True) -> None:
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

        self.scheduler = _scheduler(config, log_stats)
        self.manager = self.scheduler.kv_cache_manager
        self.pool = self.manager.block_pool
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(config["block_size"], sha256)
        self._outputs: dict[str, list[int]] = {}
        self._most_drafts = config.get("speculation", {"tokens": 0})["tokens"]

    @property
    def has_requests(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self.scheduler.get_num_unfinished_requests())

    @property
    def speculates(self) -> bool:
        """Whether tokens are drafted."""
        return bool(self._most_drafts)

    def knows(self, name: str) -> bool:
        """Whether a request is there and not finished."""
        return name in self.scheduler.requests

    def add(self, record: Record) -> None:
        """Add the request of a ``req`` record."""
        self.scheduler.add_request(self.request(record))

    def request(self, record: Record) -> Any:
        """vLLM's request for a ``req`` record, prompt hashed, to be added later."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        params = SamplingParams(
            max_tokens=record["max_tokens"], min_tokens=record["min_tokens"], ignore_eos=True
        )
        params.skip_reading_prefix_cache = record["skip_cache_read"]
        self._outputs[record["id"]] = expanded(record["output"])
        return Request(
            request_id=record["id"],
            prompt_token_ids=expanded(record["prompt"]),
            sampling_params=params,
            pooling_params=None,
            arrival_time=record["arrival_time"],
            cache_salt=record["salt"],
            priority=record["priority"],
            block_hasher=self._hasher,
        )

    def abort(self, name: str) -> None:
        """Drop a request and what it holds."""
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests([name], RequestStatus.FINISHED_ABORTED)

    def finish_step(self, output: Any) -> tuple[list[list[Any]], list[list[Any]], Any]:
        """After ``schedule()``: (id, token) sampled, (id, reason) finished, vLLM's statistics."""
        sampled, made = self.tokens_of(output)
        told = self.scheduler.update_from_output(output, made)
        stats = next((each.scheduler_stats for each in told.values() if each.scheduler_stats), None)
        return sampled, self.finished_of(told), stats

    def tokens_of(self, output: Any) -> tuple[list[list[Any]], Any]:
        """A token for everybody whose tokens are all computed: as (id, token), and as output.

        Of those that were drafted any number may be accepted, and each is one more token.
        """
        from vllm.v1.outputs import ModelRunnerOutput

        names = list(output.num_scheduled_tokens)
        sampled, tokens = [], []
        for name in names:
            request = self.scheduler.requests[name]
            if request.num_computed_tokens >= request.num_tokens:
                drafted = len(output.scheduled_spec_decode_tokens.get(name, ()))
                first, n = request.num_output_tokens, 1 + self._draw(request, "accept", drafted)
                got = self._outputs[name][first : first + n]
                got += [BEHIND_THE_END] * (n - len(got))
                sampled += [[name, token] for token in got]
                tokens.append(got)
            else:
                tokens.append([])
        made = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=tokens,
        )
        return sampled, made

    @staticmethod
    def _draw(request: Any, what: str, most: int) -> int:
        """A number up to ``most``: all or nothing more often than what is between."""
        rng = Random(f"{what} {request.request_id} {request.num_tokens}")
        return rng.choice((0, most, rng.randint(0, most)))

    def draft(self, output: Any) -> Record:
        """After `finish_step`, draft for everybody who ran, as far as the scheduler wants it.

        Answers how many tokens wait to be verified, for those who have any.
        """
        from vllm.v1.outputs import DraftTokenIds

        names = [name for name in output.num_scheduled_tokens if self.knows(name)]
        drafts = [
            [BEHIND_THE_END] * self._draw(self.scheduler.requests[name], "draft", self._most_drafts)
            for name in names
        ]
        self.scheduler.update_draft_token_ids(DraftTokenIds(names, drafts))
        running = self.scheduler.running
        return {
            each.request_id: len(each.spec_token_ids) for each in running if each.spec_token_ids
        }

    @staticmethod
    def finished_of(told: dict[int, Any]) -> list[list[Any]]:
        """(id, reason) of everybody who finished, from what the scheduler tells the front end."""
        return [
            [each.request_id, str(each.finish_reason)]
            for outputs in told.values()
            for each in outputs.outputs
            if each.finish_reason is not None
        ]


class Watch:
    """What the scheduler asks and does inside of ``schedule()``, noted as it happens."""

    def __init__(self, engine: Engine) -> None:
        self.lookups: list[list[Any]] = []
        self.refused: list[list[str]] = []
        self.preempted: list[str] = []
        self.evicted: list[int] = []
        manager, pool, scheduler = engine.manager, engine.pool, engine.scheduler
        _after(manager, "get_computed_blocks", self._looked_up)
        _after(manager, "can_fit_full_sequence", self._gated)
        _after(manager, "allocate_slots", self._allocated)
        _after(pool, "_maybe_evict_cached_block", self._dropped)
        _after(scheduler, "_preempt_request", lambda _, request, *__: self._sent_back(request))

    def take(self) -> Record:
        """Everything noted since the last time."""
        found = {name: getattr(self, name) for name in vars(self)}
        for name in found:
            setattr(self, name, [])
        return found

    def _looked_up(self, found: Any, request: Any) -> None:
        self.lookups.append([request.request_id, request.num_tokens, found[1]])

    def _gated(self, fits: bool, request: Any, *_: Any, **__: Any) -> None:
        if not fits:
            self.refused.append([request.request_id, "full_isl"])

    def _allocated(self, blocks: Any, request: Any, *_: Any, **__: Any) -> None:
        if blocks is None:
            self.refused.append([request.request_id, "slots"])

    def _dropped(self, evicted: bool, block: Any) -> None:
        if evicted:
            self.evicted.append(block.block_id)

    def _sent_back(self, request: Any) -> None:
        self.preempted.append(request.request_id)


def _after(owner: Any, name: str, note: Callable[..., None]) -> None:
    """Have ``note(result, *arguments)`` called after every call of a method of one object."""
    method = getattr(owner, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        note(result, *args, **kwargs)
        return result

    setattr(owner, name, noted)


def _scheduler(config: Record, log_stats: bool) -> Any:
    """vLLM's scheduler with its real configs; of the model only the lengths matter here."""
    from vllm.config import CacheConfig, ObservabilityConfig, ParallelConfig, SchedulerConfig
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec

    limit, budget = config["max_num_seqs"], config["max_num_batched_tokens"]
    scheduling = SchedulerConfig(
        max_model_len=config["max_model_len"],
        is_encoder_decoder=False,
        max_num_seqs=limit,
        # vLLM insists on a token for every sequence; the budget asked for is set behind its back.
        max_num_batched_tokens=max(budget, limit),
        enable_chunked_prefill=config["enable_chunked_prefill"],
        long_prefill_token_threshold=config["long_prefill_token_threshold"],
        policy=config["policy"],
        scheduler_reserve_full_isl=config["scheduler_reserve_full_isl"],
        async_scheduling="in_flight" in config,
    )
    scheduling.max_num_batched_tokens = budget
    cache = CacheConfig(
        block_size=config["block_size"],
        enable_prefix_caching=config["enable_prefix_caching"],
        mamba_cache_mode=config["mamba_cache_mode"],
    )
    cache.num_gpu_blocks = config["num_blocks"]
    groups = [
        KVCacheGroupSpec([f"layer {index}"], _spec(group, config["mamba_cache_mode"]))
        for index, group in enumerate(config["groups"])
    ]
    model = SimpleNamespace(
        max_model_len=config["max_model_len"],
        is_encoder_decoder=False,
        enable_return_routed_experts=False,
    )
    vllm_config = SimpleNamespace(
        scheduler_config=scheduling,
        cache_config=cache,
        model_config=model,
        parallel_config=ParallelConfig(),
        observability_config=ObservabilityConfig(),
        lora_config=None,
        kv_events_config=None,
        kv_transfer_config=None,
        ec_transfer_config=None,
        speculative_config=_speculative(config),
    )
    return (AsyncScheduler if "in_flight" in config else Scheduler)(
        vllm_config,
        KVCacheConfig(config["num_blocks"], [], groups),
        structured_output_manager=SimpleNamespace(should_advance=lambda _: False),
        block_size=config["block_size"],
        mm_registry=SimpleNamespace(supports_multimodal_inputs=lambda _: False),
        log_stats=log_stats,
    )


def _speculative(config: Record) -> Any:
    """What the scheduler asks of vLLM's ``SpeculativeConfig``; lookahead: as for a draft model."""
    if "speculation" not in config:
        return None
    drafts = config["speculation"]
    return SimpleNamespace(
        num_speculative_tokens=drafts["tokens"],
        use_eagle=lambda: False,
        uses_draft_model=lambda: drafts["lookahead"],
    )


def _spec(group: Record, mamba_cache_mode: str) -> Any:
    from vllm.v1 import kv_cache_interface as kinds

    size, dtype = group["block_size"], kinds.torch.float32
    if group["kind"] == "mamba":
        return kinds.MambaSpec(
            block_size=size,
            shapes=((1,),),
            dtypes=(dtype,),
            mamba_cache_mode=mamba_cache_mode,
        )
    shape = {"block_size": size, "num_kv_heads": 1, "head_size": 1, "dtype": dtype}
    if group["kind"] == "swa":
        return kinds.SlidingWindowSpec(**shape, sliding_window=group["window"])
    if group["kind"] == "chunked_local":
        return kinds.ChunkedLocalAttentionSpec(**shape, attention_chunk_size=group["chunk"])
    return kinds.FullAttentionSpec(**shape)


def ids_of(requests: Iterable[Any]) -> list[str]:
    """Ids of vLLM's requests."""
    return [request.request_id for request in requests]
