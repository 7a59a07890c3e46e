"""llama-server's rules by hand: slots, checkpoints, host memory, a full context."""

from __future__ import annotations

from typing import Any

import pytest

from sim.budget import Budget
from sim.layers import LayerSpec
from sim.model import ModelSpec
from sim.plugins import policy_of
from sim.prompt_cache.checkpoints import CheckpointRule, latest, resumed_at, threshold_of
from sim.prompt_cache.host import HostPromptCache
from sim.prompt_cache.prompt import Checkpoint, Prompt
from sim.schedulers.llama_server import CONTEXT_FULL, LlamaServer
from sim.schedulers.llama_slots import Slot, choose
from sim.sequence import Sequence
from sim.state import StateSpec
from workloads.errors import InputError
from workloads.request import PrefixPath, Request


class Server:
    """A scheduler and a policy, and what every step did."""

    def __init__(self, budget, policy="iswa", layout=None, **options: Any) -> None:
        self.policy = policy_of(policy, budget, layout)
        self.scheduler = LlamaServer(self.policy, LlamaServer.Options(**options))
        self.failed: list[str] = []

    def serve(self, *requests: tuple[int, int, PrefixPath]) -> list[Sequence]:
        """Requests at once, until all are done."""
        scheduler, seqs = self.scheduler, []
        for prompt, output, path in requests:
            number = path[-1][0]
            request = Request(number, 0.0, prompt, output, path, conversation=path[0][0])
            seqs.append(Sequence(number, request))
            scheduler.add(seqs[-1])
        self.steps = []
        while scheduler.has_work:
            step = scheduler.schedule()
            self.failed += [reason for _, reason in step.failed]
            self.steps.append([(run.seq.id, run.start, run.n) for run in step.runs])
            self.steps[-1] and self.policy.commit(step)
            scheduler.update(step)
            self.policy.check_integrity()
        return seqs

    @property
    def counts(self) -> dict[str, int]:
        return {name: n for name, n in self.scheduler.counts.items() if n and "bytes" not in name}


@pytest.fixture
def server(budget_of):
    def make(kind="windowed", policy="iswa", layout=None, tokens=2000, **options) -> Server:
        limits = {"max_seqs": options.pop("max_seqs", 2), "max_batched_tokens": 128}
        budget = budget_of(kind, tokens=tokens, max_model_len=3000, **limits)
        return Server(budget, policy, layout or {"ubatch": 64}, **options)

    return make


def test_decodes_come_first_and_then_prompts_in_the_order_of_the_slots(server):
    it = server("full", "ring", max_seqs=3)
    it.serve((100, 3, ((0, 103),)), (60, 2, ((1, 62),)))
    # Slots that were never used are taken from the last on: the first request has slot 2.
    assert it.steps == [
        [(1, 0, 60), (0, 0, 68)],
        [(1, 60, 1), (0, 68, 32)],
        [(0, 100, 1)],
        [(0, 101, 1)],
    ]


def test_a_next_turn_goes_on_in_the_slot_that_holds_the_conversation(server):
    it = server("full", "ring")
    it.serve((100, 4, ((0, 104),)), (100, 9, ((1, 109),)))
    [seq] = it.serve((130, 2, ((0, 132),)))
    # The last token of an answer is never computed: 103 of the 104 tokens are there.
    assert seq.hit == 103
    assert it.steps[0] == [(0, 103, 27)]


def test_at_least_one_token_is_processed(server):
    it = server("full", "ring")
    it.serve((100, 2, ((0, 102),)))
    [seq] = it.serve((100, 2, ((0, 100), (5, 102))))
    assert seq.hit == 99
    assert "reprocessed_tokens" not in it.counts


def path(branch: int, end: int) -> PrefixPath:
    return ((branch, end),)


def slot_with(number: int, held: PrefixPath, last_used: int) -> Slot:
    return Slot(number, prompt=Prompt(held, held[-1][1], held[-1][1]), last_used=last_used)


def test_the_slot_with_the_largest_share_is_chosen_else_the_longest_idle():
    slots = [
        slot_with(0, path(7, 50), 3),
        slot_with(1, path(8, 400), 1),
        slot_with(2, path(9, 40), 2),
    ]
    seq = Sequence(1, Request(1, 0.0, 300, 1, ((7, 35), (8, 301))))
    assert choose(slots, seq, 0.1) == (slots[0], False)
    # 35 of 300 tokens are not more than 0.2 of them.
    assert choose(slots, seq, 0.2) == (slots[1], True)
    assert choose(slots, seq, 0.0) == (slots[1], True)
    # Of the 400 tokens of slot 1 less than half would stay.
    other = Sequence(2, Request(2, 0.0, 100, 1, ((8, 90), (3, 101))))
    assert choose(slots, other, 0.1) == (slots[1], True)
    slots[1].busy = True
    assert choose(slots[1:2], other, 0.1) == (None, True)


def test_checkpoints_are_made_a_ubatch_and_four_tokens_before_the_end_and_four_before(server):
    it = server()
    it.serve((300, 2, ((0, 302),)))
    assert it.steps[:4] == [[(0, 0, 128)], [(0, 128, 104)], [(0, 232, 64)], [(0, 296, 4)]]
    slot = next(slot for slot in it.scheduler.slots if slot.prompt.tokens)
    made = [(c.tokens, c.low, c.high) for c in slot.prompt.checkpoints]
    # What the window has passed is still in its cells, and named, though it is not saved.
    assert made == [(232, 0, 231), (296, 40, 295)]
    assert [c.state.parts[0].streams[0].pos.min() for c in slot.prompt.checkpoints] == [192, 256]


@pytest.mark.parametrize(
    ("checkpoints", "hit", "counts"),
    [
        (32, 299, {"checkpoints_restored": 1}),
        (0, 0, {"reprocessed_tokens": 299}),
    ],
)
def test_a_regenerated_answer_needs_a_checkpoint(server, checkpoints, hit, counts):
    it = server(ctx_checkpoints=checkpoints)
    it.serve((300, 250, ((0, 550),)))
    before = it.counts
    [seq] = it.serve((300, 2, ((0, 300), (1, 302))))
    # The checkpoint holds 296 tokens and says 295: a token less than there is, as the engine does.
    assert seq.hit == (295 if checkpoints else hit)
    changed = {name: n - before.get(name, 0) for name, n in it.counts.items()}
    assert changed.get("checkpoints_restored", 0) == counts.get("checkpoints_restored", 0)
    assert changed.get("reprocessed_tokens", 0) == 299 - seq.hit


def test_a_full_cache_needs_none(server):
    it = server("full", "ring")
    it.serve((300, 250, ((0, 550),)))
    [seq] = it.serve((300, 2, ((0, 300), (1, 302))))
    assert seq.hit == 299
    assert it.counts == {}


def checkpoint(request: int, tokens: int, low: int = 0) -> Checkpoint:
    return Checkpoint(request, tokens, low, tokens - 1, None, 10)  # type: ignore[arg-type]


def tokens_of(made: list[Checkpoint]) -> list[int]:
    return [each.tokens for each in made]


def test_a_nearly_full_list_loses_what_is_too_close_and_then_the_oldest():
    rule = CheckpointRule(most=4, spacing=100, batch=512, ubatch=64)
    made = [checkpoint(0, 500), checkpoint(0, 550)]
    rule.add(made, checkpoint(1, 560))
    assert tokens_of(made) == [500, 550, 560]
    # Three of four: 550 and 560 come too soon after 500, and 900 does not.
    rule.add(made, checkpoint(2, 900))
    assert tokens_of(made) == [500, 560, 900]
    for tokens in (1000, 1100, 1200):
        rule.add(made, checkpoint(2, tokens))
    assert tokens_of(made) == [900, 1000, 1100, 1200]
    rule.add(made, checkpoint(2, 1200, low=7))
    assert (tokens_of(made), made[-1].low) == ([1000, 1100, 1200], 7)


def test_where_a_batch_ends_and_when_a_checkpoint_is_due():
    rule = CheckpointRule(most=32, spacing=100, batch=512, ubatch=64)
    assert rule.stop(0, 512, 2000, [], []) == 512
    assert rule.stop(1536, 2000, 2000, [], []) == 2000 - 68
    assert rule.stop(1932, 2000, 2000, [], []) == 1996
    # User messages: the last one always, others when far enough from the last checkpoint.
    assert rule.stop(0, 512, 2000, [300, 450], [checkpoint(0, 250)]) == 450
    assert rule.stop(0, 512, 2000, [300, 450], [checkpoint(0, 150)]) == 300
    assert not rule.is_due(512, 1024, 2000, [], [])
    assert rule.is_due(450, 962, 2000, [300, 450], [checkpoint(0, 449)])
    assert not rule.is_due(300, 812, 2000, [300, 450], [checkpoint(0, 250)])
    assert rule.is_due(1932, 1996, 2000, [], [checkpoint(0, 1931)])


def test_which_checkpoint_is_gone_back_to():
    made = [checkpoint(0, 200, 0), checkpoint(0, 400, 300), checkpoint(0, 600, 500)]
    window = 50
    assert latest(made, 500, threshold_of(500, 700, window)) is made[1]
    assert latest(made, 380, threshold_of(380, 700, window)) is made[0]
    assert latest(made, 150, threshold_of(150, 700, window)) is None
    # The state of a recurrent model is at one position, and nothing before it is known.
    state = Checkpoint(0, 400, 399, 399, None, 10)  # type: ignore[arg-type]
    assert latest([state], 400, threshold_of(400, 700, 0)) is state
    assert resumed_at(state, 500) == (400, 400)
    assert resumed_at(made[1], 500) == (399, 399)


def test_idle_slots_go_to_the_host_and_come_back(server):
    it = server()
    it.serve((300, 5, ((0, 305),)))
    it.serve((200, 5, ((1, 205),)))
    assert it.counts["prompt_cache_saves"] == 1
    assert [slot.prompt.tokens for slot in it.scheduler.slots].count(0) == 1
    [seq] = it.serve((350, 5, ((0, 355),)))
    # 304 tokens came back, but of the window only what the last of them sees: by the engine's rule
    # that is one too few to go on, so it goes back to the checkpoint of 296 tokens.
    assert seq.hit == 295
    assert it.counts["prompt_cache_loads"] == it.counts["checkpoints_restored"] == 1


def test_with_a_stream_for_each_slot_idle_slots_keep_what_they_hold(server):
    it = server(layout={"streams": "per-sequence", "ubatch": 64}, tokens=3000)
    it.serve((300, 5, ((0, 305),)))
    it.serve((200, 5, ((1, 205),)))
    assert sorted(slot.prompt.tokens for slot in it.scheduler.slots) == [204, 304]


@pytest.mark.parametrize(
    ("streams", "held", "room"), [("per-sequence", [204, 304], 6000), ("unified", [0, 204], 3000)]
)
def test_a_recurrent_context_is_unified_or_not_as_well(streams, held, room):
    state = StateSpec(kind="mamba", d_inner=64, d_conv=4, d_state=8, dt_rank=4)
    model = ModelSpec("states", (LayerSpec(state=state),), hidden=64, vocab=100)
    budget = Budget(
        model, 2 * model.state_bytes, max_seqs=2, max_batched_tokens=128, max_model_len=3000
    )
    it = Server(budget, "recurrent", {"streams": streams, "ubatch": 64})
    it.serve((300, 5, ((0, 305),)))
    it.serve((200, 5, ((1, 205),)))
    assert sorted(slot.prompt.tokens for slot in it.scheduler.slots) == held
    # As many tokens as the engine's context would have, though states need no cells.
    host = it.scheduler._caches.host
    assert host is not None and host.room == room


def entry(host: HostPromptCache, branch: int, tokens: int, size: int) -> int:
    return host.store(Prompt(path(branch, tokens), tokens, tokens), size, lambda: None)  # type: ignore[arg-type,return-value]


def test_the_host_keeps_the_latest_that_fit():
    host = HostPromptCache(limit=100, room=10_000)
    assert entry(host, 0, 50, 40) == 40
    assert entry(host, 0, 40, 30) == 0, "contained in what is there"
    assert entry(host, 0, 80, 50) == 50, "contains the first, which goes"
    assert [each.nbytes for each in host.entries] == [50]
    assert entry(host, 1, 50, 101) == 0, "over the limit by itself"
    assert entry(host, 2, 50, 60) == 60
    assert [each.prompt.path[0][0] for each in host.entries] == [2]
    assert (host.nbytes, host.peak) == (60, 60)


def test_the_host_gives_what_serves_better_in_both_ways():
    host = HostPromptCache(limit=None, room=10_000)
    for branch, tokens in ((0, 100), (1, 1000)):
        entry(host, branch, tokens, 1)
    nothing = Prompt()
    assert host.take(nothing, ((1, 200), (9, 300)), 300) is None, "less than a quarter in use"
    taken = host.take(nothing, ((0, 90), (9, 300)), 300)
    assert taken is not None and taken.prompt.tokens == 100
    assert len(host.entries) == 1
    better = Prompt(((1, 900), (5, 950)), 950, 950)
    assert host.take(better, ((1, 901), (9, 1000)), 1000) is None


def test_idle_slots_are_purged_and_then_everybody_fails(server):
    it = server("full", "ring", tokens=512, cache_idle_slots=False, cache_ram=0)
    it.serve((200, 2, ((0, 202),)))
    it.serve((300, 50, ((1, 350),)))
    assert it.counts == {"slots_purged": 1, "find_slot_failures": 1}
    it.serve((200, 90, ((2, 290),)), (200, 90, ((3, 290),)))
    assert it.failed == [CONTEXT_FULL] * 2
    assert it.policy.usage()[0].free == 512


def test_a_full_slot_stops_or_shifts(server):
    it = server("full", "ring", tokens=256, max_seqs=1)
    [seq] = it.serve((200, 100, ((0, 300),)))
    assert (seq.tokens, it.counts) == (256, {"truncated_sequences": 1})
    it = server("full", "ring", tokens=256, max_seqs=1, context_shift=True)
    [seq] = it.serve((200, 100, ((0, 300),)))
    assert (seq.tokens, it.counts) == (300, {"context_shifts": 1})
    # 255 tokens were held; one is kept and half of the other 254 is dropped.
    [slot] = it.scheduler.slots
    assert (slot.prompt.tokens, slot.prompt.known) == (299 - 127, 1)
    assert it.scheduler.misfit_of(Sequence(5, Request(5, 0.0, 256, 1))) != ""


def test_a_shift_by_prefill_processes_what_stays_again(server):
    it = server("full", "ring", tokens=256, max_seqs=1, context_shift=True, shift_by="reprefill")
    [seq] = it.serve((200, 100, ((0, 300),)))
    assert (seq.tokens, it.counts) == (300, {"context_shifts": 1})
    [slot] = it.scheduler.slots
    # The same cells as after a rotation, with the 127 of them that are not kept computed again.
    assert (slot.prompt.tokens, slot.prompt.known) == (299 - 127, 1)
    assert it.policy.usage()[0].live == 299 - 127
    assert (seq.high, slot.dropped) == (255, 127)
    # 127 of those that stay, and the new token.
    assert it.steps[:2] == [[(0, 0, 128)], [(0, 128, 72)]] and [(0, 128, 128)] in it.steps
    assert sum(n > 1 for [(_, _, n)] in it.steps) == 3


def test_samples_fork_into_idle_slots_and_leave_nothing(server):
    it = server("full", "ring", max_seqs=3)
    parent = Sequence(0, Request(0, 0.0, 40, 5, path(0, 45), samples=2))
    child = Sequence(1, parent.request, sample=1)
    it.scheduler.add(parent)
    step = it.scheduler.schedule()
    it.policy.commit(step)
    it.scheduler.update(step)
    assert it.scheduler.fork(parent, child)
    while it.scheduler.has_work:
        step = it.scheduler.schedule()
        it.policy.commit(step)
        it.scheduler.update(step)
    assert sorted(slot.prompt.tokens for slot in it.scheduler.slots) == [0, 0, 44]
    assert it.policy.usage()[0].shared == 0


def test_what_cannot_be_asked_for(server):
    with pytest.raises(InputError, match="context_shift: iswa cannot shift"):
        server(context_shift=True)
    with pytest.raises(InputError, match="n_parallel: expected at most 2"):
        server(n_parallel=3)
    with pytest.raises(InputError, match=r"ring\.window: expected 0"):
        server("full", "ring", layout={"window": 64})
