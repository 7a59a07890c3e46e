"""Where the engine does something wrong, what it does, and what ``strict`` does instead.

By default the caches do what the engine does, since results are compared with it. Every entry is
reproduced by a test, in both ways.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Defect:
    """name: what tests call it. engine, strict: what either does. source: where it shows."""

    name: str
    engine: str
    strict: str
    source: str


DEFECTS = (
    Defect(
        "head of another stream",
        "A decode that fails after a ubatch was placed sets the head of the s-th stream of that"
        " ubatch to what the head of stream s was.",
        "All heads are as before the decode.",
        "llama-kv-cache.cpp:861; recordings fail_head_bug_streams, fail_head_bug_streams_rewind",
    ),
    Defect(
        "purges of a failed decode",
        "Positions that were purged while looking for room stay purged though the decode fails, so"
        " that other sequences lose positions.",
        "They come back.",
        "llama_kv_cache::prepare restores only the cells it took; recording prepare_purge_lost",
    ),
    Defect(
        "range of a copy between streams",
        "Ranges that are not refused are ignored: copying (0, 0) copies everything.",
        "Any range that is not the whole stream is refused.",
        "llama_kv_cache::seq_cp; recordings arg_cp_00_s, arg_cp_p0_255_s",
    ),
    Defect(
        "keep in one stream",
        "With a stream for each sequence, keeping one leaves the other streams as they are.",
        "The other streams are emptied.",
        "llama_kv_cache::seq_keep; recording keep_streams",
    ),
    Defect(
        "direction of a division's shift",
        "After seq_div the pending K-shift is old - new position, the reverse of what the rotation"
        " needs.",
        "It is new - old position.",
        "llama_kv_cells::pos_div; in xllamacpp 2026.10.11549 K rows after dividing position 8 by"
        " 2 equal those after adding 4",
    ),
    Defect(
        "copies after clear",
        "A queued copy between streams is still carried out after everything was cleared.",
        "The queue is cleared too.",
        "llama_kv_cache::clear leaves sc_info",
    ),
    Defect(
        "saving while a shift pends",
        "Positions are saved shifted, K rows are not.",
        "Refused until a decode has carried the shift out.",
        "llama_kv_cache::state_write does not update first; recording state_pending_shift",
    ),
    Defect(
        "restoring nothing",
        "Restoring the saved state of an empty sequence leaves what the target had.",
        "The target is empty afterwards.",
        "llama_kv_cache::state_read skips streams without cells; recording"
        " arg_state_empty_into_live_u",
    ),
    Defect(
        "target of a failed restore",
        "A restore that finds no room has already removed the target; of an iSWA or hybrid cache"
        " one half can stay restored.",
        "Everything is as before.",
        "llama_kv_cache::state_read_meta; recording state_restore_no_room",
    ),
    Defect(
        "rollback of a shared state",
        "Rolling one sequence back moves the position of all who share its recurrent state.",
        "Refused.",
        "llama_memory_recurrent::seq_rm; recording rs_rollback_shared",
    ),
    Defect(
        "everybody's recurrent states",
        "Removing sequence -1 (everybody) is refused, as ids are compared unsigned.",
        "All states are removed.",
        "llama_memory_recurrent::seq_rm; recording arg_rm_seq-1_rs",
    ),
)
