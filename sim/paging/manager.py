"""Block tables of all sequences: room is looked up, made, shared and taken back.

vLLM's ``kv_cache_manager.py``; copy-on-write is that of the PagedAttention paper (section 4.4)
and of vLLM v0. Sequences are known by their ids; lengths are in tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import gcd
from typing import Final

from sim.errors import IntegrityError
from sim.paging.coordinator import Coordinator, Hit
from sim.paging.groups import NEVER, Blocks, Group, Table
from sim.paging.holding import EVERYTHING, Holding, Moved
from sim.paging.keys import branch_of, parts_of, public_length
from sim.paging.pool import BlockPool
from sim.paging.spec import GroupSpec
from sim.paging.states import StateGroup
from workloads.request import PrefixPath

MISS: Final = Hit(0, [])


class BlockManager:
    """Block tables over one pool of ``blocks`` blocks, the null block included.

    caching: whether there is a prefix cache. longest: tokens of the longest sequence allowed.
    hears_late: whether what a sequence generates is known one step later than it is computed.
    holdings: by sequence id. moved: copies on write that nobody took note of yet. open_tails: how
    many holdings have an open tail.

    Blocks on private branches (negative: no other sequence can ask for them) are not told to the
    prefix cache as long as their sequence has them. They are when they leave the table of a
    sequence that goes on, and when it is to come back after a preemption. What is found, reused
    and evicted is the same as if they had been all along, only they are not counted as cached.
    """

    def __init__(
        self, specs: Sequence[GroupSpec], blocks: int, caching: bool, longest: int
    ) -> None:
        self.pool = BlockPool(blocks)
        self.caching = caching
        self.longest = longest
        self.holdings: dict[int, Holding] = {}
        self.moved: list[Moved] = []
        self.open_tails = 0
        self.hears_late = False
        self._coordinator = Coordinator(specs, self.pool)
        self.groups = self._coordinator.groups
        self.alike = self._coordinator.alike
        """The groups by type: those of one type take and drop the same at the same time."""
        self.rows = self._coordinator.rows
        """The same in order: those that follow one another together."""
        self._freeing = [row for row in self.rows if row[0].frees]
        self.frees = bool(self._freeing)
        self._settling = [group for group in self.groups if isinstance(group, StateGroup)]
        self.foreseeable = all(group.spec.mode != "align" for group in self.groups)
        """Whether what decoding sequences take and drop follows from their lengths alone."""
        self._finest = gcd(*(group.size for group in self.groups))
        self._returning: set[int] = set()

    # Asking.

    def find(self, owner: int, path: PrefixPath, tokens: int) -> Hit:
        """The cached prefix of a waiting sequence of ``tokens`` tokens.

        The last token is always computed, since somebody wants to know what follows it.
        """
        if not self.caching:
            return MISS
        if self._coordinator.needs_keys and path[0][0] < 0 and owner not in self._returning:
            return MISS
        return self._coordinator.find(path, tokens - 1)

    def public_length(self, owner: int, path: PrefixPath) -> int:
        """Leading tokens whose blocks the prefix cache is told of as soon as there are any."""
        return EVERYTHING if owner in self._returning else public_length(path)

    def need(self, owner: int, computed: int, tokens: int, hit: Hit = MISS) -> int:
        """Blocks off the free queue that room for ``tokens`` tokens takes.

        ``computed`` of them are there already, those of ``hit`` included.
        """
        holding = self.holdings.get(owner)
        if holding is None:
            return self._first_need(computed, tokens, hit)
        return self._further_need(holding, computed, tokens)

    def _first_need(self, computed: int, tokens: int, hit: Hit) -> int:
        tokens = min(tokens, self.longest)
        need, tables = 0, hit.tables
        for row in self.rows:
            table = tables[row[0].index] if tables else []
            need += len(row) * row[0].first_need(table, tokens, computed)
        if not tables:
            return need
        if hit.free < 0:
            free = 0
            for group in self.groups:
                free += group.free_in(tables[group.index], computed)
            hit.free = free
        return need + hit.free

    def _further_need(self, holding: Holding, computed: int, tokens: int) -> int:
        tokens = min(tokens, self.longest)
        need = len(self.shared_tails(holding, computed)) if holding.open_tail else 0
        for row in self.rows:
            need += len(row) * row[0].further_need(holding.tables[row[0].index], tokens)
        return need

    # Doing.

    def admit(
        self, owner: int, path: PrefixPath, computed: int, n: int, tokens: int, hit: Hit = MISS
    ) -> Holding | int:
        """Give a new holder room for ``n`` tokens after those of ``hit``.

        Answers how many free blocks that takes, if there are not as many. tokens: how many the
        sequence is known to have; full blocks of them go into the prefix cache, computed or not.
        """
        need = self._first_need(computed, computed + n, hit)
        if need > self.pool.free:
            return need
        if hit.tables:
            tables = [group.adopt(hit.tables[group.index], computed) for group in self.groups]
        else:
            tables = [Table([], group.size) for group in self.groups]
        holding = self._hold(owner, tables, path)
        if self.hears_late:
            holding.known = tokens
        self._grow(holding, computed, n, tokens)
        return holding

    def _hold(self, owner: int, tables: list[Table], path: PrefixPath) -> Holding:
        holding = Holding(tables, path, self.public_length(owner, path))
        if self.frees:
            self._foresee_drop(holding)
        self.holdings[owner] = holding
        return holding

    def _foresee_drop(self, holding: Holding) -> None:
        tables = holding.tables
        holding.drop_at = min([row[0].next_drop(tables[row[0].index]) for row in self._freeing])

    def extend(
        self, holding: Holding, computed: int, n: int, tokens: int, lookahead: int = 0
    ) -> bool:
        """Make room for ``n`` tokens after the ``computed`` ones, or answer False.

        Blocks that fell out of a window are given back in any case. lookahead: tokens behind those
        that have to find room too.
        """
        if holding.drop_at <= computed:
            self._drop(holding, computed)
        if self._further_need(holding, computed, computed + n + lookahead) > self.pool.free:
            return False
        if holding.open_tail:
            self._unshare_tails(holding, computed)
        self._grow(holding, computed, n, tokens, lookahead)
        return True

    def extend_by_one(self, holding: Holding, computed: int) -> bool:
        """`extend` for a sequence that decodes: the token after the ``computed`` ones."""
        if holding.open_tail or not self.foreseeable:
            return self.extend(holding, computed, 1, computed + 1)
        if holding.drop_at <= computed:
            self._drop(holding, computed)
        if holding.room <= computed and not self._grow_by_one(holding, computed):
            return False
        holding.start, holding.end = computed, computed + 1
        if computed <= holding.public and self.caching:
            told = computed + 1 if computed < holding.known else computed
            if told % self._finest == 0:
                self.publish(holding, told)
        return True

    def _grow_by_one(self, holding: Holding, computed: int) -> bool:
        """A block for every table that is full with ``computed`` tokens, or False."""
        tables, pool = holding.tables, self.pool
        grown: list[Table] = []
        room = NEVER
        for row in self.rows:
            table = tables[row[0].index]
            end = len(table.blocks) * table.size
            if end <= computed:
                end += table.size
                grown += [tables[group.index] for group in row]
            if end < room:
                room = end
        if len(grown) > pool.free:
            return False
        if len(grown) == 1:
            grown[0].blocks.append(pool.take_one())
        elif grown:
            for table, block in zip(grown, pool.take(len(grown)), strict=False):
                table.blocks.append(block)
        holding.room = room
        return True

    def _grow(
        self, holding: Holding, computed: int, n: int, tokens: int, lookahead: int = 0
    ) -> None:
        end, tables = min(computed + n + lookahead, self.longest), holding.tables
        wanted: list[int] = []
        total = 0
        for row in self.rows:
            n_blocks = row[0].further_need(tables[row[0].index], end)
            wanted.append(n_blocks)
            total += len(row) * n_blocks
        if total:
            blocks, used = self.pool.take(total), 0
            for index, row in enumerate(self.rows):
                for group in row:
                    until = used + wanted[index]
                    group.grow(tables[group.index], end, blocks[used:until])
                    used = until
        holding.start, holding.end = computed, computed + n
        if self.caching:
            self.publish(holding, holding.told(min(computed + n, tokens)))

    def _drop(self, holding: Holding, computed: int) -> None:
        """Give back what fell out of windows, before anything is taken."""
        drop_at, tables = NEVER, holding.tables
        gone: list[Blocks] = []
        told = holding.told(computed)
        for row in self._freeing:
            first_of_all = tables[row[0].index]
            ranges = row[0].drops(first_of_all, computed)
            # Those who do not stand in a row are told of with the first of them.
            if holding.public < told and row[0] is row[0].peers[0]:
                for first, stop in ranges:
                    self._disclose(holding, row[0].peers, first, stop, told)
            for group in row:
                for first, stop in ranges:
                    gone.append(group.take_out(tables[group.index], first, stop))
            drop_at = min(drop_at, row[0].next_drop(first_of_all))
        holding.drop_at = drop_at
        self._give(gone)

    def _give(self, pieces: list[Blocks]) -> None:
        """Give pieces of tables back, one after the other, each from its end."""
        if len(pieces) == 1:
            self.pool.give(pieces[0])
        elif pieces:
            given: Blocks = []
            for piece in reversed(pieces):
                given += piece
            self.pool.give(given)

    def publish(self, holding: Holding, tokens: int) -> None:
        """Offer the full blocks among the first ``tokens`` tokens to the prefix cache."""
        tables = holding.tables
        for peers in self.alike:
            table = tables[peers[0].index]
            first, stop = table.cached, tokens // table.size
            if first < stop:
                for group in peers:
                    tables[group.index].cached = stop
                self._tell(holding, peers, first, min(stop, holding.public // table.size))

    def _tell(self, holding: Holding, peers: list[Group], first: int, stop: int) -> None:
        """Tell the prefix cache of these entries of the tables of one type."""
        if stop == first + 1 and len(peers) == 1 and not holding.forked:
            self._tell_one(holding, peers[0], first)
            return
        parts = parts_of(holding.path, peers[0].size, first, stop)
        if not parts:
            return
        n, tables = len(peers), holding.tables
        if n == 1:
            blocks = tables[peers[0].index].blocks[first:stop]
        elif stop == first + 1:
            blocks = [tables[group.index].blocks[first] for group in peers]
        else:
            blocks = [0] * (n * (stop - first))
            for i, group in enumerate(peers):
                blocks[i::n] = tables[group.index].blocks[first:stop]
        if holding.forked:
            blocks = [0 if self.pool.is_found(block) else block for block in blocks]
        peers[0].publish(parts, blocks)

    def _tell_one(self, holding: Holding, group: Group, entry: int) -> None:
        """`_tell` of one entry in a group that is the only one of its type."""
        block, path = holding.tables[group.index].blocks[entry], holding.path
        if block and path[-1][1] // group.size > entry:
            group.publish_one(branch_of(path, group.size, entry), entry, block)

    def _disclose(
        self, holding: Holding, peers: list[Group], first: int, stop: int, tokens: int
    ) -> None:
        """Tell the prefix cache of private blocks, if full with ``tokens`` tokens, now given up."""
        if self.caching and holding.public < EVERYTHING:
            size = peers[0].size
            stop = min(stop, tokens // size)
            self._tell(holding, peers, max(first, holding.public // size), stop)

    def release(self, owner: int) -> None:
        """Give back what ``owner`` holds, if anything: group after group, each from its end."""
        holding = self.holdings.pop(owner, None)
        if holding is not None:
            self.open_tails -= holding.open_tail
            tables = holding.tables
            self._give([group.held(tables[group.index]) for group in self.groups])
        if self._returning:
            self._returning.discard(owner)

    def suspend(self, owner: int, tokens: int) -> None:
        """`release` a sequence that may look for its own blocks when it comes back.

        tokens: how many of its tokens are computed, or have room and are known.
        """
        holding = self.holdings[owner]
        for peers in self.alike:
            entries = len(holding.tables[peers[0].index].blocks)
            self._disclose(holding, peers, 0, entries, holding.told(tokens))
        self.release(owner)
        self._returning.add(owner)

    def clear(self) -> None:
        """Forget all sequences and the prefix cache."""
        for owner in list(self.holdings):
            self.release(owner)
        self.pool.forget_keys()

    def step_ends(self) -> None:
        """What was promised to the prefix cache in this step is computed now."""
        for group in self._settling:
            group.step_ends()

    # Sharing and cutting.

    def restore(self, owner: int, path: PrefixPath, computed: int) -> bool:
        """New blocks for ``computed`` tokens that are brought back from the host, if there is room.

        Only for what is still needed of them. They are not told to the prefix cache.
        """
        if self.need_to_restore(computed) > self.pool.free:
            return False
        tables = []
        for group in self.groups:
            first, stop = group.skipped(computed) // group.size, -(-computed // group.size)
            table = Table([0] * first + self.pool.take(stop - first), group.size)
            table.cached = computed // group.size
            tables.append(table)
        holding = self._hold(owner, tables, path)
        holding.start = holding.end = computed
        return True

    def need_to_restore(self, computed: int) -> int:
        """Blocks for what is needed of ``computed`` tokens, and for the next one, as in vLLM v0."""
        return sum(
            -(-(computed + 1) // group.size) - group.skipped(computed) // group.size
            for group in self.groups
        )

    def cut(self, owner: int, tokens: int) -> None:
        """Forget all but the first ``tokens`` tokens of ``owner``.

        A block that is cut in two may be written again: it leaves the prefix cache and, if others
        hold it, will be copied first.
        """
        holding = self.holdings[owner]
        for group, table in zip(self.groups, holding.tables, strict=True):
            kept = -(-tokens // group.size)
            self.pool.give([block for block in table.blocks[kept:] if block])
            table.blocks = table.blocks[:kept]
            table.live = min(table.live, kept)
            table.cached = min(table.cached, tokens // group.size)
            if tokens % group.size and table.blocks[-1]:
                self.pool.unpublish(table.blocks[-1])
        holding.start = holding.end = tokens
        holding.surplus = holding.room = 0
        if self.frees:
            self._foresee_drop(holding)
        self._open_tail(holding)

    def _open_tail(self, holding: Holding) -> None:
        self.open_tails += not holding.open_tail
        holding.open_tail = True

    def fork(self, parent: int, child: int, path: PrefixPath, computed: int) -> None:
        """Let ``child``, with prefix identity ``path``, hold all that ``parent`` holds.

        That is room for ``computed`` tokens.
        """
        source = self.holdings[parent]
        tables = []
        for group, table in zip(self.groups, source.tables, strict=True):
            # Not those that a lookahead has taken.
            twin = Table(table.blocks[: -(-computed // table.size)], table.size)
            twin.live, twin.cached, twin.state = table.live, table.cached, table.state
            tables.append(twin)
            self.pool.share(group.held(twin))
        holding = self._hold(child, tables, path)
        holding.forked = source.forked = True
        holding.known = source.known
        holding.start = source.start if source.end == computed else computed - 1
        holding.end = computed
        self._open_tail(holding)
        self._open_tail(source)

    def shared_tails(self, holding: Holding, computed: int) -> list[tuple[int, int]]:
        """(group, entry) of every shared block that the next token would be written into."""
        tails: list[tuple[int, int]] = []
        if not self.pool.sharers:
            return tails
        for index, (group, table) in enumerate(zip(self.groups, holding.tables, strict=True)):
            entry, filled = divmod(computed, group.size)
            if filled and entry < len(table.blocks) and table.blocks[entry] in self.pool.sharers:
                tails.append((index, entry))
        return tails

    def _unshare_tails(self, holding: Holding, computed: int) -> None:
        """Copy on write; the last holder of a block writes in place."""
        for index, entry in self.shared_tails(holding, computed):
            table = holding.tables[index]
            source, target = table.blocks[entry], self.pool.take_one()
            table.blocks = [*table.blocks[:entry], target, *table.blocks[entry + 1 :]]
            self.pool.give([source])
            self.moved.append(Moved(index, source, target, computed % self.groups[index].size))
        self.open_tails -= 1
        holding.open_tail = False

    # Looking at it.

    def common_prefix(self, owner: int) -> list[int]:
        """Per group, leading blocks of ``owner`` that every sequence holds (cascade attention).

        0 for groups other than full attention, and without a prefix cache.
        """
        counts = [0] * len(self.groups)
        if self.caching:
            for index, group in enumerate(self.groups):
                if group.spec.kind == "full":
                    counts[index] = self._held_by_all(self.holdings[owner].tables[index].blocks)
        return counts

    def _held_by_all(self, blocks: Blocks) -> int:
        everyone = len(self.holdings)
        for i, block in enumerate(blocks):
            if self.pool.holds_of(block) != everyone:
                return i
        return len(blocks)

    def check_integrity(self) -> None:
        """Raise `IntegrityError` where blocks are lost, doubled or held by nobody."""
        held = Counter(
            block
            for holding in self.holdings.values()
            for group, table in zip(self.groups, holding.tables, strict=True)
            for block in group.held(table)
        )
        if 0 in held:
            raise IntegrityError("the null block is held")
        self.pool.check_integrity(dict(held))
        for owner, holding in self.holdings.items():
            lengths = {
                len(table.blocks) * group.size
                for group, table in zip(self.groups, holding.tables, strict=True)
            }
            finest = max(group.size for group in self.groups)
            if max(lengths) - min(lengths) >= finest:
                raise IntegrityError(f"tables of sequence {owner} differ in length: {lengths}")
