"""The attention cache against a model that goes cell by cell, as the engine does."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sim.llamacpp.batch import Batch
from sim.llamacpp.cellmap import map_runs
from sim.llamacpp.geometry import AttentionGeometry
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.observer import Observer
from sim.llamacpp.sizes import AttentionRows
from sim.llamacpp.ubatch import split_equal, split_simple
from sim.llamacpp.window import Window

ROWS = AttentionRows(AttentionGeometry(1, 32, 32, 64), "f16", "f16", False)
SEQS = 4
END = 10**9


class SlowCell:
    def __init__(self):
        self.pos, self.owners, self.shift = -1, set(), 0

    def wipe(self):
        self.pos, self.owners, self.shift = -1, set(), 0


class SlowCache:
    """Lists of cells, walked one by one; every rule as plainly as it can be said."""

    def __init__(self, size, n_stream, window, contiguous):
        self.size, self.n_stream, self.window, self.contiguous = size, n_stream, window, contiguous
        self.streams = [[SlowCell() for _ in range(size)] for _ in range(n_stream)]
        self.heads = [0] * n_stream
        self.has_shift = [False] * n_stream
        self.copies, self.purges = [], []

    def stream_of(self, seq):
        return seq if self.n_stream > 1 else 0

    def held(self, seq):
        return [c for c in self.streams[self.stream_of(seq)] if seq in c.owners]

    def pos_min(self, seq):
        return min((c.pos for c in self.held(seq)), default=-1)

    def pos_max(self, seq):
        return max((c.pos for c in self.held(seq)), default=-1)

    def masked(self, p0, p1):
        kind, n = self.window.kind, self.window.n
        if kind == "standard":
            return p1 - p0 >= n
        return kind == "chunked" and p0 < p1 // n * n

    def can_use(self, cell):
        if cell.pos == -1:
            return True
        if len(cell.owners) != 1:
            return False
        (owner,) = cell.owners
        return self.masked(cell.pos, self.pos_max(owner) + 1)

    def find(self, stream, n):
        cells = self.streams[stream]
        used = sum(c.pos != -1 for c in cells)
        head = self.heads[stream]
        if head > used + 2 * n:
            head = 0
        if n > self.size:
            return None
        usable = [self.can_use(c) for c in cells]
        found, tested = [], 0
        test = n if self.contiguous else 1
        while True:
            if head + test > self.size:
                tested += self.size - head
                head = 0
                continue
            for _ in range(test):
                ok = usable[head]
                if ok:
                    found.append(head)
                head += 1
                tested += 1
                if not ok and self.contiguous:
                    break
            if len(found) == n:
                return found
            if self.contiguous:
                found = []
            if tested >= self.size:
                return None

    def parts(self, ubatch):
        tokens = [(first + i, seqs) for seqs, first, n in ubatch.runs for i in range(n)]
        if self.n_stream == 1:
            return [(0, tokens)]
        seqs = sorted({s for _, owners in tokens for s in owners})
        return [(s, [t for t in tokens if t[1][0] == s]) for s in seqs]

    def find_slot(self, parts):
        found = [(stream, tokens, self.find(stream, len(tokens))) for stream, tokens in parts]
        return None if any(cells is None for _, _, cells in found) else found

    def apply(self, slot):
        lost = {}
        for stream, tokens, cells in slot:
            for (pos, owners), index in zip(tokens, cells, strict=True):
                cell = self.streams[stream][index]
                if cell.pos != -1:
                    (owner,) = cell.owners
                    lost[owner] = max(lost.get(owner, -1), cell.pos)
                cell.wipe()
                cell.pos, cell.owners = pos, set(owners)
        for seq in sorted(lost):
            lowest = self.pos_min(seq)
            if lowest <= lost[seq]:
                self.purges.append((seq, lowest, lost[seq]))
                self.seq_rm(seq, lowest, lost[seq] + 1)
        for stream, _, cells in slot:
            self.heads[stream] = cells[-1] + 1

    def decode(self, ubatches):
        """None if refused, else per ubatch (cells of each stream, n_kv)."""
        states, slots = [], []
        for ubatch in ubatches:
            slot = self.find_slot(self.parts(ubatch))
            if slot is None:
                break
            slots.append(slot)
            old = [[copy.deepcopy(self.streams[s][i]) for i in cells] for s, _, cells in slot]
            states.append((slot, list(self.heads), old))
            self.apply(slot)
        for slot, heads, old in reversed(states):
            for s, (stream, _, cells) in enumerate(slot):
                for index, before in zip(cells, old[s], strict=True):
                    self.streams[stream][index] = copy.deepcopy(before)
                self.heads[stream] = heads[s]
        if len(slots) < len(ubatches):
            return None
        done = []
        for slot in slots:
            self.apply(slot)
            n_kv = 0
            for stream, _, _ in slot:
                used = [i for i, c in enumerate(self.streams[stream]) if c.pos != -1]
                top = used[-1] + 1 if used else 0
                n_kv = max(n_kv, min(self.size, max(256, -(-top // 256) * 256)))
            done.append(([cells for _, _, cells in slot], n_kv))
        return done

    # ---- sequence operations

    def lower(self, stream, freed):
        if freed and freed[0] < self.heads[stream]:
            self.heads[stream] = freed[0]

    def seq_rm(self, seq, p0, p1):
        p0, p1 = max(0, p0), END if p1 < 0 else p1
        streams = range(self.n_stream) if seq == -1 else [self.stream_of(seq)]
        for stream in streams:
            freed = []
            for i, c in enumerate(self.streams[stream]):
                if not (p0 <= c.pos < p1):
                    continue
                if seq == -1:
                    c.wipe()
                    freed.append(i)
                elif seq in c.owners:
                    c.owners.discard(seq)
                    if not c.owners:
                        c.wipe()
                        freed.append(i)
            self.lower(stream, freed)

    def seq_cp(self, src, dst, p0, p1):
        if self.stream_of(src) == self.stream_of(dst):
            p0, p1 = max(0, p0), END if p1 < 0 else p1
            for c in self.held(src):
                if p0 <= c.pos < p1:
                    c.owners.add(dst)
            return
        self.copies.append((src, dst))
        for c, d in zip(self.streams[src], self.streams[dst], strict=True):
            d.wipe()
            if src in c.owners:
                d.pos, d.owners, d.shift = c.pos, {dst}, c.shift
        self.has_shift[dst] = any(d.shift for d in self.streams[dst])
        self.heads[dst] = self.heads[src]

    def seq_keep(self, seq):
        stream, freed = self.stream_of(seq), []
        for i, c in enumerate(self.streams[stream]):
            if seq in c.owners:
                c.owners = {seq}
            elif c.owners:
                c.wipe()
                freed.append(i)
        self.lower(stream, freed)

    def seq_add(self, seq, p0, p1, by):
        p0, p1 = max(0, p0), END if p1 < 0 else p1
        if by == 0 or p0 == p1:
            return
        stream, freed = self.stream_of(seq), []
        for i, c in enumerate(self.streams[stream]):
            if seq in c.owners and p0 <= c.pos < p1:
                self.has_shift[stream] = True
                c.pos += by
                c.shift += by
                if c.pos < 0:
                    c.wipe()
                    freed.append(i)
        self.heads[stream] = freed[0] if freed else 0

    def seq_div(self, seq, p0, p1, by):
        p0, p1 = max(0, p0), END if p1 < 0 else p1
        if by == 1 or p0 == p1:
            return
        stream = self.stream_of(seq)
        for c in self.held(seq):
            if p0 <= c.pos < p1:
                self.has_shift[stream] = True
                c.shift += c.pos - c.pos // by
                c.pos //= by

    def clear(self):
        for stream in range(self.n_stream):
            for c in self.streams[stream]:
                c.wipe()
        self.heads = [0] * self.n_stream
        self.has_shift = [False] * self.n_stream

    def update(self):
        copies, self.copies = self.copies, []
        shifts = {}
        if any(self.has_shift):
            for stream, cells in enumerate(self.streams):
                moved = {i: c.shift for i, c in enumerate(cells) if c.shift}
                if moved:
                    shifts[stream] = moved
                for c in cells:
                    c.shift = 0
        self.has_shift = [False] * self.n_stream
        return copies, shifts

    def save(self, seq):
        last = self.pos_max(seq)
        return [c.pos for c in self.held(seq) if not self.masked(c.pos, last)]

    def load(self, seq, positions):
        if not positions:
            return True
        self.seq_rm(seq, -1, -1)
        slot = self.find_slot([(self.stream_of(seq), [(p, (seq,)) for p in positions])])
        if slot is None:
            return False
        self.apply(slot)
        return True

    def whole(self):
        return [[(c.pos, set(c.owners)) for c in cells if c.pos != -1] for cells in self.streams]

    def load_whole(self, saved):
        self.clear()
        for cells, stream in zip(self.streams, saved, strict=True):
            for c, (pos, owners) in zip(cells, stream, strict=False):
                c.pos, c.owners = pos, set(owners)


class Purges(Observer):
    def __init__(self):
        self.seen = []

    def on_purge(self, cache, seq, first, last):
        self.seen.append((seq, first, last))


seqs = st.integers(0, SEQS - 1)
bounds = st.integers(-1, 24)


class CacheMachine(RuleBasedStateMachine):
    @initialize(
        size=st.integers(4, 40),
        streams=st.sampled_from([1, 1, SEQS]),
        window=st.sampled_from(
            [Window(), Window("standard", 3), Window("standard", 7), Window("chunked", 6)]
        ),
        contiguous=st.sampled_from([False, False, True]),
        n_ubatch=st.integers(1, 9),
        calm=st.booleans(),
    )
    def start(self, size, streams, window, contiguous, n_ubatch, calm):
        self.n_ubatch = n_ubatch
        # Without shared cells and moved positions most counters go the short way.
        self.calm = calm
        self.slow = SlowCache(size, streams, window, contiguous)
        self.fast = KVCache(
            "kv",
            ROWS,
            size=size,
            n_stream=streams,
            n_seq_max=SEQS,
            window=window,
            slots="contiguous" if contiguous else "scattered",
        )
        self.fast.observer = self.purges = Purges()
        self.saved = None
        self.saved_whole = None

    def _decode(self, data):
        runs, following = [], {s: self.slow.pos_max(s) + 1 for s in range(SEQS)}
        for _ in range(data.draw(st.integers(1, 4))):
            shared = self.slow.n_stream == 1 and not self.calm and data.draw(st.integers(0, 5)) == 0
            owners = {data.draw(seqs)}
            if shared:
                owners = data.draw(st.sets(seqs, min_size=2, max_size=3))
            n = data.draw(st.integers(1, 8))
            first = max(following[s] for s in owners)
            runs.append((tuple(sorted(owners)), first, n))
            for s in owners:
                following[s] = first + n
        batch = Batch(runs)
        if self.slow.n_stream > 1:
            ubatches = split_equal(batch, self.n_ubatch, sequential=True)
        elif data.draw(st.booleans()):
            ubatches = split_equal(batch, self.n_ubatch, sequential=False)
        else:
            ubatches = split_simple(batch, self.n_ubatch)
        self.update()
        expected = self.slow.decode(ubatches)
        placement = self.fast.prepare(ubatches)
        if placement is not None:
            placement.commit()
        assert (placement is None) == (expected is None)
        if placement is not None:
            got = [([c.tolist() for _, _, c in s.parts], s.n_kv) for s in placement.slots]
            assert got == expected
        assert self.purges.seen == self.slow.purges

    # Most of the time tokens are placed: the rest needs something to work on.
    decode = rule(data=st.data())(_decode)
    decode_again = rule(data=st.data())(_decode)
    decode_more = rule(data=st.data())(_decode)
    decode_still = rule(data=st.data())(_decode)
    decode_on = rule(data=st.data())(_decode)
    decode_ever = rule(data=st.data())(_decode)

    @rule()
    def update(self):
        copies, shifts = self.slow.update()
        done = self.fast.update()
        assert [(c.src, c.dst) for c in done.copies] == copies
        got = {
            s.stream: dict(zip(s.cells.tolist(), s.amounts.tolist(), strict=True))
            for s in done.shifts
        }
        assert got == shifts

    @rule(seq=st.integers(-1, SEQS - 1), p0=bounds, p1=bounds)
    def remove(self, seq, p0, p1):
        self.slow.seq_rm(seq, p0, p1)
        assert self.fast.seq_rm(seq, p0, p1)

    @rule(src=seqs, dst=seqs, p0=bounds, p1=bounds)
    def share(self, src, dst, p0, p1):
        if self.slow.n_stream > 1:
            p0, p1 = 0, -1
            if src == dst:
                return
        elif src == dst or self.calm:
            return
        self.slow.seq_cp(src, dst, p0, p1)
        self.fast.seq_cp(src, dst, p0, p1)

    @rule(seq=seqs)
    def keep(self, seq):
        self.slow.seq_keep(seq)
        self.fast.seq_keep(seq)

    @rule(seq=seqs, p0=bounds, p1=bounds, by=st.integers(-6, 6))
    def move(self, seq, p0, p1, by):
        if self.calm:
            return
        self.slow.seq_add(seq, p0, p1, by)
        self.fast.seq_add(seq, p0, p1, by)

    @rule(seq=seqs, p0=bounds, p1=bounds, by=st.integers(1, 3))
    def divide(self, seq, p0, p1, by):
        if self.calm:
            return
        self.slow.seq_div(seq, p0, p1, by)
        self.fast.seq_div(seq, p0, p1, by)

    @rule()
    def clear(self):
        self.slow.clear()
        self.fast.clear()

    @rule(seq=seqs)
    def save(self, seq):
        (state,) = self.fast.save(seq, False)
        positions = [p for s in state.streams if s is not None for p in s.pos.tolist()]
        assert positions == self.slow.save(seq)
        assert self.fast.state_bytes(seq, False) == state.nbytes
        self.saved = state, positions

    @rule(seq=seqs)
    def load(self, seq):
        if self.saved is not None:
            state, positions = self.saved
            done = self.slow.load(seq, positions)
            if not done:
                self.slow.seq_rm(seq, -1, -1)
            assert self.fast.load([state], seq) == done
            assert self.purges.seen == self.slow.purges

    @rule()
    def save_whole(self):
        (state,) = self.fast.save(None, False)
        self.saved_whole = state, self.slow.whole()

    @rule()
    def load_whole(self):
        if self.saved_whole is not None:
            state, slow = self.saved_whole
            self.slow.load_whole(slow)
            assert self.fast.load([state], None)

    @invariant()
    def alike(self):
        if not hasattr(self, "slow"):
            return
        self.fast.check_integrity()
        for stream, cells in enumerate(self.slow.streams):
            mine = self.fast.streams[stream]
            assert mine.pos.tolist() == [c.pos for c in cells]
            assert [set(mine.owners_of(i)) for i in range(self.slow.size)] == [
                c.owners for c in cells
            ]
            assert mine.shift.tolist() == [c.shift for c in cells]
            assert mine.has_shift == self.slow.has_shift[stream]
        assert self.fast.heads == self.slow.heads
        for seq in range(SEQS):
            assert self.fast.seq_pos_min(seq) == self.slow.pos_min(seq)
            assert self.fast.seq_pos_max(seq) == self.slow.pos_max(seq)
            positions, cells = self.fast.cells_of(seq)
            assert sorted(positions.tolist()) == sorted(c.pos for c in self.slow.held(seq))
            assert (np.diff(cells) > 0).all()

    @invariant()
    def usage_and_maps(self):
        if not hasattr(self, "slow"):
            return
        usage, cells = self.fast.usage(), [c for s in self.slow.streams for c in s]
        assert usage.used == sum(c.pos != -1 for c in cells) == usage.cells - usage.free
        assert usage.shared == sum(len(c.owners) > 1 for c in cells)
        assert usage.live == sum(not self.slow.can_use(c) for c in cells)
        runs = map_runs(self.fast.streams[0])
        shown = {first + i: (who, pos + i) for first, who, pos, n in runs for i in range(n)}
        wanted = {
            i: (str(min(c.owners)) if len(c.owners) == 1 else "M", c.pos)
            for i, c in enumerate(self.slow.streams[0])
            if c.pos != -1
        }
        assert shown == wanted


CacheMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestAttentionCacheMachine = CacheMachine.TestCase
