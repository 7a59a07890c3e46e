"""What is kept beside the cells of a stream, told of how its sequences grow and shrink."""

from __future__ import annotations

import numpy as np

from sim.llamacpp.batch import Decodes
from sim.llamacpp.cells import Cells, Cellset
from sim.llamacpp.dues import NEVER
from sim.llamacpp.ubatch import Tokens


def note_tokens(cells: Cells, tokens: Tokens, taken: Cellset) -> None:
    """Newly placed tokens: spans, whereabouts, and the owners of shared ones."""
    begin = 0
    decodes = tokens.decodes
    if decodes is not None:
        begin = decodes.seqs.size
        cells.spans.append_each(decodes.seqs, decodes.firsts)
        cells.whereabouts.note(decodes.rows(1, cells.whereabouts), taken[:begin])
    for seqs, first, n in tokens.runs:
        part = taken[begin : begin + n]
        if len(seqs) > 1:
            cells.share(part, seqs)
        else:
            cells.whereabouts.note_run(seqs[0], first, part)
        for seq in seqs:
            cells.spans.append(seq, first, n)
        begin += n


def keep_pace(cells: Cells, tokens: Tokens, taken: Cellset) -> None:
    """Newly placed tokens, after all spans are known: when which cells can be taken."""
    dues, spans, decodes, runs = cells.dues, cells.spans, tokens.decodes, tokens.runs
    if not dues.window.bounded:
        dues.moment[taken] = NEVER
        return
    if not spans.all_regular and not _are_last(cells, tokens):
        dues.forget()
    if len(runs) > 1 and len({seqs for seqs, _, _ in runs}) < len(runs):
        dues.forget()
    if not dues.is_known:
        return
    width = 0 if decodes is None else decodes.seqs.size
    present = np.count_nonzero(spans.end)
    singles = width + sum([n == 1 for _, _, n in runs])
    ticks = 1 if 2 * singles > present else 0
    if not ticks and present == 1:
        ticks = runs[0][2]
    dues.pass_by(ticks)
    begin = width
    if decodes is not None:
        if ticks:
            dues.date_decodes(taken[:width], decodes.positions(1))
        else:
            for seq, first in zip(decodes.seqs.tolist(), decodes.firsts.tolist(), strict=True):
                _date_anew(cells, seq, first)
    for seqs, first, n in runs:
        if n == ticks:
            dues.date_run(taken[begin : begin + n], first, first + n)
        else:
            _date_anew(cells, seqs[0], first)
        begin += n
    if ticks and width + len(runs) < present:
        stayed = set(cells.present()) - {seqs[0] for seqs, _, _ in runs}
        _date_those_that_stay(cells, stayed, decodes)


def _are_last(cells: Cells, tokens: Tokens) -> bool:
    """Whether the tokens are known to be the last ones of their sequences."""
    spans, decodes = cells.spans, tokens.decodes
    if spans.stale:
        return False
    if decodes is not None and (spans.end[decodes.seqs] > decodes.firsts + 1).any():
        return False
    return all(spans.end[seq] == first + n for seqs, first, n in tokens.runs for seq in seqs)


def note_decode_run(cells: Cells, decodes: Decodes, steps: int, taken: Cellset) -> None:
    """Tokens of so many steps were placed, a later step over an earlier one."""
    seqs, spans, dues = decodes.seqs, cells.spans, cells.dues
    cells.whereabouts.note(decodes.rows(steps, cells.whereabouts), taken)
    spans.append_each(seqs, decodes.firsts, steps)
    if not dues.window.bounded:
        dues.moment[taken] = NEVER
    elif dues.is_known:
        dues.pass_by(steps)
        dues.date_decodes(taken, decodes.positions(steps))
        if seqs.size < np.count_nonzero(spans.end):
            _date_those_that_stay(cells, set(cells.present()), decodes)


def has_receded(cells: Cells, seq: int) -> None:
    """``seq`` has lost its last positions."""
    if cells.dues.window.bounded and cells.dues.is_known:
        _date_anew(cells, seq, int(cells.spans.end[seq]))


def _date_those_that_stay(cells: Cells, seqs: set[int], decodes: Decodes | None) -> None:
    """Of ``seqs`` those that do not decode stay where they are while the clock goes on."""
    if decodes is not None:
        seqs = seqs.difference(decodes.seqs.tolist())
    for seq in seqs:
        _date_anew(cells, seq, int(cells.spans.end[seq]))


def _date_anew(cells: Cells, seq: int, first: int) -> None:
    """``seq`` does not keep pace: date what its token at ``first`` sees, and what comes after."""
    spans, dues = cells.spans, cells.dues
    if not cells.whereabouts.knows(spans, seq):
        dues.forget()
    if not dues.is_known:
        return
    end = int(spans.end[seq])
    begin = max(int(spans.low[seq]), dues.window.last_masked(first) + 1)
    if end > begin:
        dues.date_run(cells.whereabouts.cells_of(seq, begin, end - begin), begin, end)
