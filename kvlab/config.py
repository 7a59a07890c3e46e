"""What is asked of kvlab: a setting (model, memory, traffic, limits), and policies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError

from kvlab.cluster_settings import ClusterSetting
from kvlab.speculation_settings import SpeculationSetting
from kvlab.tier_settings import TierSetting
from sim.budget import Budget
from sim.hardware import hardware_of
from sim.metrics import Objectives
from sim.model import ModelSpec
from sim.model_files.lookup import model_of
from sim.sharding import shard_of
from workloads.errors import InputError
from workloads.registry import suggestion_for

MEMORY_FOR_ENGINE = 0.9
"""Share of the device's memory that weights and K/V may take together (vLLM's default)."""

Count = Annotated[int, Field(ge=1, le=10**9)]
Rate = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class ServiceClass(BaseModel):
    """Objectives of a service class; a request meets them if it meets both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft_s: Seconds = Objectives.ttft_s
    tpot_s: Seconds = Objectives.tpot_s


class Setting(BaseModel):
    """Everything that is the same for all policies of a comparison.

    model, hardware: built-in names or paths. kv_tokens: K/V memory in tokens with every layer
    cached in full, or kv_memory: in bytes; with neither, what 90 % of the device's memory leaves
    beside the weights. max_model_len: longest sequence; by default the model's longest context.
    tensor_parallel: devices that divide the model; hardware and memory are those of each of them.
    cluster: several engines, each with that hardware and memory, and the router before them.
    tiers: host memory and disk below the device's prefix cache. speculation: drafts that steps
    verify. slo: objectives by service class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "llama-3.1-8b"
    hardware: str = "h100"
    tensor_parallel: Count = 1
    cluster: ClusterSetting = ClusterSetting()
    tiers: TierSetting = TierSetting()
    speculation: SpeculationSetting | None = None
    kv_memory: Annotated[ByteSize, Field(ge=1, le=1 << 60)] | None = None
    kv_tokens: Count | None = None
    kv_type: str = "f16"
    kv_type_v: str | None = None
    workload: str = "sharegpt"
    workload_options: dict[str, Any] = {}
    requests: Count | None = None
    rate: Rate | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    scheduler: str = "vllm"
    scheduler_options: dict[str, Any] = {}
    max_seqs: Count = 256
    max_batched_tokens: Count = 8192
    max_model_len: Count | None = None
    block_size: Count = 16
    time_model: str = "roofline"
    slo: dict[str, ServiceClass] = {}
    exact_steps: bool = False

    @classmethod
    def of(cls, fields: dict[str, Any], where: str = "") -> Self:
        """The setting with these fields; raises `InputError` naming the first wrong one."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise InputError(where + _line_of(error, cls)) from None

    def budget(self) -> Budget:
        """The memory and limits that every policy gets."""
        model = shard_of(model_of(self.model), self.tensor_parallel)
        per_token = model.token_bytes(self.kv_type, self.kv_type_v)
        if self.kv_memory is not None and self.kv_tokens is not None:
            raise InputError("kv_memory and kv_tokens say the same thing twice: give one of them")
        if self.kv_tokens is not None and not per_token:
            raise InputError(f"kv_tokens: {model.name} keeps states, no tokens: give kv_memory")
        if self.kv_tokens is not None:
            n_bytes = self.kv_tokens * per_token
        elif self.kv_memory is not None:
            n_bytes = self._without_drafts(int(self.kv_memory), per_token)
        else:
            draft = self._draft_model()
            weights = model.weight_bytes + (draft.weight_bytes if draft is not None else 0)
            n_bytes = self._without_drafts(self._left_beside_weights(weights), per_token)
        smallest, what = (per_token, "token") if per_token else (model.state_bytes, "state")
        if n_bytes < smallest:
            raise InputError(
                f"{n_bytes} bytes of K/V memory hold no {what} of {model.name} ({smallest} bytes)"
            )
        return Budget(
            model=model,
            bytes=n_bytes,
            kv_type_k=self.kv_type,
            kv_type_v=self.kv_type_v or self.kv_type,
            max_seqs=self.max_seqs,
            max_batched_tokens=self.max_batched_tokens,
            max_model_len=self.max_model_len or model.max_context,
            devices=self.tensor_parallel,
        )

    def _draft_model(self) -> ModelSpec | None:
        drafts = self.speculation
        return None if drafts is None else drafts.draft_model(self.tensor_parallel)

    def _without_drafts(self, n_bytes: int, per_token: int) -> int:
        """What is left of K/V memory beside a draft model's for as many tokens."""
        draft = self._draft_model()
        if draft is None:
            return n_bytes
        return n_bytes * per_token // (per_token + draft.token_bytes(self.kv_type, self.kv_type_v))

    @property
    def speculates(self) -> bool:
        """Whether anything is drafted."""
        return self.speculation is not None and self.speculation.tokens > 0

    def _left_beside_weights(self, weights: int) -> int:
        sheet = hardware_of(self.hardware)
        left = int(MEMORY_FOR_ENGINE * sheet.memory_bytes) - weights
        if left <= 0:
            raise InputError(
                f"the weights of {self.model} ({weights / 2**30:.1f} GiB) leave nothing of "
                f"{self.hardware}'s {sheet.memory_bytes / 2**30:.1f} GiB: expected a larger device,"
                " or kv_tokens / kv_memory"
            )
        return left

    def objectives(self) -> dict[str, Objectives]:
        """Objectives by service class; ``default`` is always among them."""
        stated = {"default": ServiceClass()} | self.slo
        return {name: Objectives(each.ttft_s, each.tpot_s) for name, each in stated.items()}


class RunConfig(Setting):
    """One run: a setting and a policy. What `config.toml` of a result holds."""

    policy: str
    policy_options: dict[str, Any] = {}


class Comparison(Setting):
    """Several policies on the same requests in the same memory."""

    policies: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "none",
        "contiguous",
        "ring",
        "paged",
        "iswa",
    )
    policy_options: dict[str, dict[str, Any]] = {}

    def runs(self) -> Iterator[RunConfig]:
        """One run a policy. Raises `InputError` for options of a policy that is not compared."""
        for name in self.policy_options:
            if name not in self.policies:
                hint = suggestion_for(name, self.policies)
                raise InputError(f"policy_options.{name}: not among the policies; {hint}")
        if len(set(self.policies)) < len(self.policies):
            raise InputError("policies: each policy can be named once")
        common = {name: getattr(self, name) for name in Setting.model_fields}
        for policy in self.policies:
            options = self.policy_options.get(policy, {})
            yield RunConfig(**common, policy=policy, policy_options=options)


def _line_of(error: ValidationError, cls: type[BaseModel]) -> str:
    """The first complaint of pydantic as one line; an unknown field explains a missing one."""
    found = error.errors()
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        inner = _model_at(cls, first["loc"][:-1])
        return f"unknown field {where!r}; {suggestion_for(str(first['loc'][-1]), inner)}"
    if first["type"] == "value_error":
        return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r}"


def _model_at(cls: type[BaseModel], place: tuple[int | str, ...]) -> Iterable[str]:
    """The fields that may stand at a place: those of the innermost model on the way there."""
    for key in place:
        hint = cls.model_fields[key].annotation if key in cls.model_fields else None
        inner = [each for each in _classes_in(hint) if issubclass(each, BaseModel)]
        cls = inner[0] if inner else cls
    return cls.model_fields


def _classes_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type):
        yield hint
    for part in get_args(hint):
        yield from _classes_in(part)
