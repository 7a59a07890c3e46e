"""Old tokens as mass-weighted centroids, on real arrays: clustering, and attention over them.

The measure that puts the same mass on every old key is approximated by k atoms. Those nearest to
it in 2-Wasserstein distance are the centres of the k-means clusters, each with the mass of its
cluster (Pollard, 1982), so a key of the summary is a centre, its value the mean of the cluster's
values, and its logit gets the logarithm of the mass: the softmax then counts it as often as it
stands for tokens. One set of centroids for every KV head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backends.arrays import Array, Backend
from backends.softmax import attention

_ROUNDS = 25


@dataclass(frozen=True)
class Atoms:
    """Keys with masses, and their values.

    k: (atoms, kv_heads, element), v likewise; mass: (atoms, kv_heads), 1 for a token kept.
    """

    k: Array
    v: Array
    mass: Array


def kept(backend: Backend, k: Array, v: Array) -> Atoms:
    """Tokens as they are: rows of (token, kv_head, element)."""
    return Atoms(k, v, backend.xp.ones(k.shape[:2], k.dtype))


def joined(backend: Backend, *parts: Atoms) -> Atoms:
    """All atoms of several parts."""
    xp = backend.xp
    return Atoms(
        xp.concatenate([part.k for part in parts]),
        xp.concatenate([part.v for part in parts]),
        xp.concatenate([part.mass for part in parts]),
    )


def summarized(backend: Backend, atoms: Atoms, count: int, seed: int = 0) -> Atoms:
    """``count`` atoms in place of ``atoms``; theirs, where they are no more than that."""
    xp = backend.xp
    if len(atoms.k) <= count:
        return atoms
    heads = [
        _head(xp, atoms.k[:, h], atoms.v[:, h], atoms.mass[:, h], count, seed)
        for h in range(atoms.k.shape[1])
    ]
    return Atoms(*(xp.stack(part, axis=1) for part in zip(*heads, strict=True)))


def _head(
    xp: Any, k: Array, v: Array, mass: Array, count: int, seed: int
) -> tuple[Array, Array, Array]:
    owner = clusters(xp, k, mass, count, seed)
    member = (owner[None, :] == xp.arange(count)[:, None]) * mass
    total = member.sum(axis=1)
    return member @ k / total[:, None], member @ v / total[:, None], total


def clusters(xp: Any, points: Array, mass: Array, count: int, seed: int = 0) -> Array:
    """Weighted k-means: the cluster of each point, none of them empty.

    Lloyd's rounds from centres that are each as far as can be from those before it. points:
    (points, element), at least ``count`` of them; mass: (points,), positive.
    """
    centres = points[_far_apart(xp, points, count, seed)]
    owner = None
    for _ in range(_ROUNDS):
        distance = _squared(xp, points, centres)
        found = distance.argmin(axis=1)
        found = _filled(xp, found, distance.min(axis=1) * mass, count)
        if owner is not None and bool((found == owner).all()):
            break
        owner = found
        member = (owner[None, :] == xp.arange(count)[:, None]) * mass
        centres = member @ points / member.sum(axis=1)[:, None]
    return owner


def _squared(xp: Any, a: Array, b: Array) -> Array:
    """Squared distances, shape (a, b)."""
    apart = (a * a).sum(axis=1)[:, None] - 2 * (a @ b.T) + (b * b).sum(axis=1)[None, :]
    return xp.maximum(apart, 0)


def _far_apart(xp: Any, points: Array, count: int, seed: int) -> list[int]:
    chosen = [seed % len(points)]
    nearest = _squared(xp, points, points[chosen])[:, 0]
    while len(chosen) < count:
        # A point that is chosen is at no distance, and must not be chosen again.
        nearest[chosen[-1]] = -1
        chosen.append(int(nearest.argmax()))
        nearest = xp.minimum(nearest, _squared(xp, points, points[chosen[-1:]])[:, 0])
    return chosen


def _filled(xp: Any, owner: Array, cost: Array, count: int) -> Array:
    """Clusters without a point take the points that cost most where they are."""
    sizes = xp.bincount(owner, minlength=count)
    for empty in xp.flatnonzero(sizes == 0).tolist():
        movable = xp.where(sizes[owner] > 1, cost, -1)
        worst = int(movable.argmax())
        sizes[owner[worst]] -= 1
        owner[worst], sizes[empty], cost[worst] = empty, 1, 0
    return owner


def attend_atoms(backend: Backend, q: Array, atoms: Atoms, scale: float) -> Array:
    """Attention of queries (queries, heads, element) over atoms, masses counted.

    The logarithm of the mass is one more element of the key, which meets a one in the query.
    """
    xp = backend.xp
    logs = xp.log(atoms.mass)[:, :, None] / scale
    keys = xp.concatenate([atoms.k, logs], axis=2)
    queries = xp.concatenate([q, xp.ones((*q.shape[:2], 1), q.dtype)], axis=2)
    mask = xp.ones((len(q), len(keys)), bool)
    return attention(xp, queries, keys, atoms.v, mask, scale)
