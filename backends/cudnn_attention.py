"""Attention by cuDNN's fused kernel, through ``nvidia-cudnn-frontend``: prefill chunks, references.

It reads the rows of a store where they lie: a range of cells as a strided tensor, or blocks through
a block table (cuDNN's paged attention). Tensors are declared with their strides and handed over as
addresses, so bf16, which NumPy has no name for, goes like f16. Other types than these two are not
taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from backends.arrays import Array, Backend
from backends.store import KVStore, Work
from workloads.errors import InputError

KINDS: Mapping[str, str] = {"f16": "HALF", "bf16": "BFLOAT16"}
"""cuDNN's names of the types that its attention takes."""
EXTRA = "pip install 'kvlab[cudnn]'"


@dataclass(frozen=True)
class Problem:
    """What a plan is made for.

    kind: type of all tensors. sequences of ``queries`` new tokens each, over ``keys`` cells, their
    own included; a causal mask ends at the last cell. block: cells of a block where they are found
    through block tables, of ``blocks`` blocks; else a sequence's cells are neighbours, and so are
    sequences.
    """

    kind: str
    heads: int
    kv_heads: int
    dim: int
    sequences: int
    queries: int
    keys: int
    scale: float
    block: int = 0
    blocks: int = 0

    @property
    def table_width(self) -> int:
        """Entries of a block table."""
        return -(-self.keys // self.block)


def cudnn_or_refusal() -> Any:
    """The module ``cudnn``; `InputError` in one line where it or its library is missing."""
    try:
        module: Any = import_module("cudnn")
    except ImportError:
        raise InputError(f"cuDNN: nvidia-cudnn-frontend is not installed ({EXTRA})") from None
    try:
        module.backend_version()
    except Exception as error:  # whatever the loader says
        reason = str(error).partition("\n")[0]
        raise InputError(f"cuDNN: its library cannot be loaded ({reason}; {EXTRA})") from None
    return module


def graph_of(cudnn: Any, problem: Problem, handle: Any = None) -> tuple[Any, dict[str, Any]]:
    """The graph of a problem, not built yet, and its tensors by name.

    Names: q, k, v, out, and with block tables k_table, v_table, q_lengths, k_lengths.
    """
    kind = getattr(cudnn.data_type, KINDS[problem.kind])
    single, integer = cudnn.data_type.FLOAT, cudnn.data_type.INT32
    graph = cudnn.pygraph(
        io_data_type=kind,
        intermediate_data_type=single,
        compute_data_type=single,
        handle=handle,
    )
    n, dim = problem.sequences, problem.dim
    q_dims = [n, problem.heads, problem.queries, dim]
    q_strides = _row_major(problem.queries, problem.heads, dim)
    cells = problem.block or problem.keys
    k_dims = [problem.blocks or n, problem.kv_heads, cells, dim]
    k_strides = _row_major(cells, problem.kv_heads, dim)
    found = {
        "q": graph.tensor(name="q", dim=q_dims, stride=q_strides, data_type=kind),
        "k": graph.tensor(name="k", dim=k_dims, stride=k_strides, data_type=kind),
        "v": graph.tensor(name="v", dim=k_dims, stride=k_strides, data_type=kind),
    }
    options: dict[str, Any] = {}
    if problem.block:
        width = problem.table_width
        for name, size in (
            ("k_table", width),
            ("v_table", width),
            ("q_lengths", 1),
            ("k_lengths", 1),
        ):
            found[name] = graph.tensor(
                name=name, dim=[n, 1, size, 1], stride=[size, size, 1, 1], data_type=integer
            )
        options = {
            "use_padding_mask": True,
            "seq_len_q": found["q_lengths"],
            "seq_len_kv": found["k_lengths"],
            "paged_attention_k_table": found["k_table"],
            "paged_attention_v_table": found["v_table"],
            "paged_attention_max_seq_len_kv": problem.keys,
        }
    if problem.queries > 1:  # the last query sees all there is
        options["use_causal_mask_bottom_right"] = True
    out, _ = graph.sdpa(
        name="attention",
        q=found["q"],
        k=found["k"],
        v=found["v"],
        is_inference=True,
        attn_scale=problem.scale,
        **options,
    )
    out.set_output(True).set_dim(q_dims).set_stride(q_strides).set_data_type(kind)
    return graph, found | {"out": out}


def _row_major(tokens: int, heads: int, dim: int) -> list[int]:
    """Strides of (sequence, head, token, element) where memory is [sequence][token][head]."""
    return [tokens * heads * dim, dim, heads * dim, 1]


class CudnnAttention:
    """Plans for problems, kept, on the current stream of a CuPy backend.

    Raises `InputError` where cuDNN is missing or finds no GPU.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._cudnn = cudnn_or_refusal()
        try:
            self._handle = self._cudnn.create_handle()
        except Exception as error:  # cuDNN's own, of no common type
            reason = str(error).partition("\n")[0]
            raise InputError(f"cuDNN: no handle ({reason})") from None
        stream = backend.xp.cuda.get_current_stream()
        self._cudnn.set_stream(handle=self._handle, stream=stream.ptr)
        self._plans: dict[Problem, tuple[Any, dict[str, Any], Array]] = {}

    def over_cells(
        self, store: KVStore, layer: int, q: Array, first: int, keys: int, scale: float
    ) -> tuple[Work, Array]:
        """Work, and the array it writes: ``q`` over neighbouring cells from ``first`` on.

        q: (sequences, queries, heads, element) of f32; every sequence has ``keys`` cells. The
        output has the same shape, in the store's type as its format keeps it.
        """
        problem = self._problem(store, q, keys, scale)
        return self._work(store, layer, problem, q, first, {})

    def through_table(
        self,
        store: KVStore,
        layer: int,
        q: Array,
        table: Array,
        block: int,
        keys: int,
        scale: float,
    ) -> tuple[Work, Array]:
        """The same through block tables. table: int32 (sequences, blocks of ``keys`` cells)."""
        xp, n = self._backend.xp, len(q)
        base = self._problem(store, q, keys, scale)
        problem = Problem(**vars(base) | {"block": block, "blocks": store.cells // block})
        if table.shape != (n, problem.table_width):
            raise ValueError(f"a table of {table.shape} for {problem}")
        table = xp.ascontiguousarray(table, "int32")
        lengths = {
            "q_lengths": self._backend.on_device([q.shape[1]] * n).astype("int32"),
            "k_lengths": self._backend.on_device([keys] * n).astype("int32"),
        }
        tables = {"k_table": table, "v_table": table}
        return self._work(store, layer, problem, q, 0, lengths | tables)

    def _problem(self, store: KVStore, q: Array, keys: int, scale: float) -> Problem:
        kind, row = store.format_k.name, store.row
        if not takes(store):
            raise InputError(
                f"cuDNN: expected K and V alike, not transposed, of one of {', '.join(KINDS)}; "
                f"not {kind} and {store.format_v.name} of {row}"
            )
        sequences, queries, heads, dim = q.shape
        return Problem(kind, heads, row.kv_heads, dim, sequences, queries, keys, scale)

    def _work(
        self,
        store: KVStore,
        layer: int,
        problem: Problem,
        q: Array,
        first: int,
        more: Mapping[str, Array],
    ) -> tuple[Work, Array]:
        graph, tensors, workspace = self._plan(problem)
        xp = self._backend.xp
        asked = xp.ascontiguousarray(store.format_k.encode(xp, self._backend.on_device(q)))
        out = xp.empty(asked.shape, asked.dtype)
        arrays = {
            "q": asked,
            "k": store.k[layer, first:],
            "v": store.v[layer, first:],
            "out": out,
            **more,
        }
        pack = {tensors[name]: int(array.data.ptr) for name, array in arrays.items()}
        return partial(self._run, graph, pack, workspace, tuple(arrays.values())), out

    def _run(self, graph: Any, pack: Mapping[Any, int], workspace: Array, _kept: Any) -> None:
        graph.execute(pack, workspace, handle=self._handle)

    def _plan(self, problem: Problem) -> tuple[Any, dict[str, Any], Array]:
        if problem not in self._plans:
            graph, tensors = graph_of(self._cudnn, problem, self._handle)
            try:
                graph.validate()
                graph.build_operation_graph()
                graph.create_execution_plans([self._cudnn.heur_mode.A])
                graph.check_support()
                graph.build_plans()
            except Exception as error:  # cuDNN's own, of no common type
                reason = str(error).partition("\n")[0]
                raise InputError(f"cuDNN: no plan for {problem}: {reason}") from None
            size = max(1, int(graph.get_workspace_size()))
            workspace = self._backend.xp.empty(size, "uint8")
            self._plans[problem] = graph, tensors, workspace
        return self._plans[problem]


def takes(store: KVStore) -> bool:
    """Whether the rows of ``store`` can be read by cuDNN."""
    kind, row = store.format_k.name, store.row
    alike = kind == store.format_v.name and row.k_dim == row.v_dim
    return kind in KINDS and alike and not store.v_transposed
