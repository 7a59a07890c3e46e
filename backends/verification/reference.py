"""What attention should give: double precision over each sequence's own, dense history.

The history knows nothing of cells, blocks or other sequences. It keeps every token's K and V
twice: exactly, and as a private cache of the same type would hold it, rounded on writing and again
whenever a context shift turns its keys. The second tells a misplaced row from a right one however
coarse the type is; the first says how far the type itself may lead astray.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backends.formats.base import Format
from backends.rope import rotated, turns_of
from backends.shape import GroupShape, visible
from backends.verification.content import Content, Identities

Doubles = NDArray[np.float64]


class Column:
    """Rows that grow at the end. ``rows``: what was appended so far."""

    def __init__(self, tail: tuple[int, ...], dtype: Any) -> None:
        self._space = np.zeros((16, *tail), dtype)
        self._n = 0

    @property
    def rows(self) -> NDArray[Any]:
        """A view; good until the next `append`."""
        return self._space[: self._n]

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows at the end."""
        end = self._n + len(rows)
        if end > len(self._space):
            more = np.zeros((2 * end - len(self._space), *self._space.shape[1:]), self._space.dtype)
            self._space = np.concatenate([self._space, more])
        self._space[self._n : end] = rows
        self._n = end

    def cut(self, n: int) -> None:
        """Keep the first ``n``."""
        self._n = min(self._n, n)

    def drop(self, first: int, end: int) -> None:
        """Take ``first .. end - 1`` out; what is behind them moves down."""
        self._space[first : self._n - end + first] = self._space[end : self._n].copy()
        self._n -= end - first


class Unrounded(NamedTuple):
    """Attention before any rounding, and the most that rounding the rows can make of it.

    Both of shape (queries, heads, element).
    """

    output: Doubles
    bound: Doubles


class GroupHistory:
    """One sequence in one layer group."""

    def __init__(self, content: Content, format_k: Format, format_v: Format) -> None:
        row = content.shape.row
        self._content = content
        self._format_k, self._format_v = format_k, format_v
        self._exact_k = Column((row.kv_heads, row.k_dim), np.float64)
        self._exact_v = Column((row.kv_heads, row.v_dim), np.float64)
        self._k = Column((row.kv_heads, row.k_dim), np.float32)
        self._v = Column((row.kv_heads, row.v_dim), np.float32)
        self._error_k = Column((row.kv_heads, row.k_dim), np.float64)
        self._error_v = Column((row.kv_heads, row.v_dim), np.float64)

    @property
    def _columns(self) -> tuple[Column, ...]:
        return (
            *(self._exact_k, self._exact_v, self._k, self._v),
            *(self._error_k, self._error_v),
        )

    def __len__(self) -> int:
        return len(self._k.rows)

    def adopt(self, other: GroupHistory) -> None:
        """Append all that ``other`` has."""
        for mine, theirs in zip(self._columns, other._columns, strict=True):
            mine.append(theirs.rows)

    def append(self, tokens: Identities, positions: NDArray[np.int64]) -> None:
        """Compute tokens at the next positions."""
        k, v = self._content.keys(tokens, positions), self._content.values(tokens)
        self._exact_k.append(k)
        self._exact_v.append(v)
        self._k.append(_kept(self._format_k, k))
        self._v.append(_kept(self._format_v, v))
        self._error_k.append(self._format_k.error_bound(np, k))
        self._error_v.append(self._format_v.error_bound(np, v))

    def cut(self, n: int) -> None:
        """Forget all but the first ``n`` tokens."""
        for column in self._columns:
            column.cut(n)

    def shift(self, first: int, end: int) -> None:
        """Drop tokens ``first .. end - 1`` and turn the keys behind them down by as many."""
        for column in self._columns:
            column.drop(first, end)
        rows = slice(first, None)
        n = len(self._k.rows) - first
        turns = turns_of(np.full(n, first - end, dtype=np.int64), self._k.rows.shape[-1])
        self._exact_k.rows[rows] = rotated(np, self._exact_k.rows[rows], turns.astype(np.float64))
        turned = rotated(np, self._k.rows[rows], turns)
        self._k.rows[rows] = _kept(self._format_k, turned)
        carried = _turned_sizes(self._error_k.rows[rows], turns)
        self._error_k.rows[rows] = carried + self._format_k.error_bound(np, turned)

    def attention(self, tokens: Identities, positions: NDArray[np.int64]) -> Doubles:
        """Of queries at ``positions`` over the rows they see, as a private cache holds them."""
        q, mask = self._asked(tokens, positions)
        return _attention(self._content.shape, q, self._k.rows, self._v.rows, mask)[0]

    def unrounded(self, tokens: Identities, positions: NDArray[np.int64]) -> Unrounded:
        """The same over the exact rows, and how far rounded ones can lead from it.

        If no score moves by more than e, no weight moves by more than a factor of exp(2 e). With
        w' the moved weights, the output moves by sum w' (v' - v) + sum (w' - w) (v - output).
        """
        shape = self._content.shape
        q, mask = self._asked(tokens, positions)
        output, weights = _attention(shape, q, self._exact_k.rows, self._exact_v.rows, mask)
        error_k, error_v, v = (
            np.repeat(column.rows, shape.heads // shape.row.kv_heads, axis=1)
            for column in (self._error_k, self._error_v, self._exact_v)
        )
        score = np.einsum("qhd,khd->qhk", np.abs(q), error_k) * shape.scale
        worst = np.where(mask[:, None], score, 0).max(axis=-1, initial=0)[..., None]
        own = np.einsum("qhk,khd->qhd", weights, error_v)
        spread = np.stack(
            [
                np.einsum("hk,khd->hd", w, np.abs(v - o))
                for w, o in zip(weights, output, strict=True)
            ]
        )
        return Unrounded(output, np.exp(2 * worst) * own + np.expm1(2 * worst) * spread)

    def _asked(
        self, tokens: Identities, positions: NDArray[np.int64]
    ) -> tuple[Doubles, NDArray[np.bool_]]:
        keys = np.arange(len(self._k.rows))
        mask: NDArray[np.bool_] = visible(np, self._content.shape, positions, keys)
        return self._content.queries(tokens, positions).astype(np.float64), mask


def _attention(
    shape: GroupShape, q: Doubles, k: NDArray[Any], v: NDArray[Any], mask: NDArray[np.bool_]
) -> tuple[Doubles, Doubles]:
    """Output and softmax weights (queries, heads, keys), in double precision throughout."""
    per_head = shape.heads // shape.row.kv_heads
    keys = np.repeat(k.astype(np.float64), per_head, axis=1)
    values = np.repeat(v.astype(np.float64), per_head, axis=1)
    scores = np.einsum("qhd,khd->qhk", q, keys, optimize=True) * shape.scale
    scores = np.where(mask[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("qhk,khd->qhd", weights, values, optimize=True), weights


def _kept(form: Format, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is read back of ``rows``."""
    kept: NDArray[np.float32] = form.decode(np, form.encode(np, rows))
    return kept


def _turned_sizes(sizes: Doubles, turns: NDArray[np.float32]) -> Doubles:
    """Bounds of elements after the rows were turned."""
    half = sizes.shape[-1] // 2
    first, second = sizes[..., :half], sizes[..., half:]
    cosine, sine = np.abs(turns[:, :, None]).astype(np.float64)
    return np.concatenate([first * cosine + second * sine, first * sine + second * cosine], axis=-1)
