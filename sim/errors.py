"""What a policy refuses."""

from __future__ import annotations


class PolicyError(Exception):
    """A policy was asked for something that it cannot do; nothing was changed."""


class UnsupportedOperation(PolicyError):
    """The operation makes no sense for this policy.

    Names the policy, the operation that was asked for, and the reason.
    """

    def __init__(self, policy: str, operation: str, reason: str) -> None:
        super().__init__(policy, operation, reason)

    def __str__(self) -> str:
        policy, operation, reason = self.args
        return f"policy {policy!r} cannot {operation}: {reason}"


class IntegrityError(AssertionError):
    """A conservation law is broken: a cell is lost, owned twice or owned by the dead."""
