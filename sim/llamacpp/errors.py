"""What cannot be done is refused with one of these; none of them leaves a half-done operation."""

from __future__ import annotations


class LlamaCppError(RuntimeError):
    """A call that the modelled engine does not carry out."""


class EngineAborts(LlamaCppError):
    """A call that would end the engine's process (failed assertion, signal).

    call: the operation with its arguments, as text. reason: which check of the engine fails, why.
    """

    def __init__(self, call: str, reason: str) -> None:
        super().__init__(f"{call}: {reason}")
        self.call = call
        self.reason = reason


class ContextRefused(LlamaCppError):
    """The engine would return no context for these parameters (and keep running)."""


class EngineUndefined(LlamaCppError):
    """A call after which the engine's own bookkeeping would be inconsistent."""


class StrictRefusal(LlamaCppError):
    """With ``strict``, a call that the engine answers wrongly instead of refusing it."""


class IntegrityError(LlamaCppError):
    """An invariant of the cell bookkeeping does not hold: a fault of kvlab itself."""


class StateMismatch(LlamaCppError):
    """Saved state that does not belong to this kind of context."""
