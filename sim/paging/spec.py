"""What a paged cache is made of: groups of layers that share block tables, and one pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sim.budget import Budget
from sim.model import LayerGroup
from workloads.errors import InputError

_ALMOST_EQUAL = 1.5
_STATE_ALIGNMENT = 16


@dataclass(frozen=True)
class GroupSpec:
    """A group of layers with one block table a sequence (vLLM's ``KVCacheGroupSpec``).

    kind: ``full``, ``swa``, ``chunked`` or ``recurrent``. block_size: tokens of a block.
    window: tokens of the window or chunk. mode: how a recurrent group keeps states, ``none``,
    ``all`` or ``align`` (vLLM's ``mamba_cache_mode``). layer_ids: the model's layers it serves.
    """

    kind: str
    block_size: int
    window: int = 0
    mode: str = ""
    layer_ids: tuple[int, ...] = ()

    @property
    def type(self) -> GroupSpec:
        """What groups that behave alike have in common."""
        return replace(self, layer_ids=())


@dataclass(frozen=True)
class Layout:
    """How bytes are divided. blocks: the pool, null block included. block_bytes: of a block."""

    groups: tuple[GroupSpec, ...]
    blocks: int
    block_bytes: int


def layout_of(
    budget: Budget, block_size: int, hybrid: bool = True, state_mode: str = "none"
) -> Layout:
    """The groups and the pool that vLLM makes of the model and the bytes of ``budget``.

    Layers of one kind are split into groups with equally many layers, so that a block of any
    group has the same bytes: as many layers as the rarest kind has or, where the kinds are nearly
    equally frequent (less than 1.5 apart), as the most frequent has. The last group of a kind is
    padded (``kv_cache_utils._get_kv_cache_groups_uniform_page_size``). Kinds that cache fewer
    bytes a token have larger blocks (``unify_kv_cache_spec_page_size``), and beside recurrent
    layers blocks grow until one holds a state (``HybridAttentionMambaModelConfig``).
    ``hybrid=False`` forgets the windows, so that all attention layers are of one kind. Raises
    `InputError` where kinds cannot share blocks or the bytes hold too few of them.
    """
    model = budget.model
    kinds = model.groups(windowed=hybrid)
    cells = [budget.cell_bytes_of(kind) // kind.layers for kind in kinds]
    states = [kind.state_bytes // kind.layers for kind in kinds]
    widest, state = max(cells), max(states)
    if widest:
        block_size = _grown(block_size, -(-state // widest))
    page = widest * block_size or state
    layers = _layers_of_a_group([kind.layers for kind in kinds])
    groups: list[GroupSpec] = []
    for kind, cell in zip(kinds, cells, strict=True):
        tokens, mode = block_size, ""
        if kind.kind == "recurrent":
            mode = state_mode
            tokens = budget.max_model_len if mode == "none" else block_size
        elif widest % cell:
            raise InputError(
                f"{model.name}: layers of {cell} and {widest} bytes a token cannot share blocks"
            )
        else:
            tokens = page // cell
        groups += _split(GroupSpec(kind.kind, tokens, kind.window, mode), kind, layers)
    block_bytes = page * layers
    blocks = budget.bytes // block_bytes
    if blocks < 2:
        raise InputError(
            f"{budget.bytes} bytes of K/V memory hold {blocks} blocks of {block_bytes} bytes of"
            f" {model.name}, expected at least 2 (one of them stays empty)"
        )
    return Layout(tuple(groups), blocks, block_bytes)


def _grown(block_size: int, needed: int) -> int:
    if needed <= block_size:
        return block_size
    return -(-needed // _STATE_ALIGNMENT) * _STATE_ALIGNMENT


def _layers_of_a_group(counts: Sequence[int]) -> int:
    fewest, most = min(counts), max(counts)
    return most if most < fewest * _ALMOST_EQUAL else fewest


def _split(spec: GroupSpec, kind: LayerGroup, layers: int) -> list[GroupSpec]:
    """Groups of at most ``layers`` layers, dealt out in turn."""
    count = -(-kind.layers // layers)
    return [replace(spec, layer_ids=kind.layer_ids[i::count]) for i in range(count)]
