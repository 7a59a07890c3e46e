"""What is asked of speculative decoding."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sim.budget import Budget
from sim.drafter import Drafter, DraftModel, Heads
from sim.model import ModelSpec
from sim.model_files.lookup import model_of
from sim.plugins import time_model_of
from sim.sharding import shard_of
from sim.speculation import Speculation, constant_rates
from workloads.errors import InputError

Share = Annotated[float, Field(ge=0, le=1)]


def _listed(given: Any) -> Any:
    """One number, or text with several, as a list."""
    if isinstance(given, str):
        return given.split(",")
    return [given] if isinstance(given, int | float) else given


class SpeculationSetting(BaseModel):
    """Drafts that a step verifies for every sequence that decodes.

    tokens: drafted for each of them; 0: none. acceptance: how often a draft is accepted if those
    before it were, one number; or how often at least the first, the first two, ... are accepted,
    as many numbers as tokens. draft: a model that drafts, by name or path; draft_cost: instead of
    it, the time of one drafted token as a share of the step's; neither: drafts cost nothing
    (n-gram lookup). lookahead: tokens behind the drafts that `paged` makes room for; by default as
    many as tokens with a draft model, else none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Annotated[int, Field(ge=0, le=64)]
    acceptance: Annotated[tuple[Share, ...], BeforeValidator(_listed), Field(min_length=1)]
    draft: str | None = None
    draft_cost: Annotated[float, Field(ge=0, le=100)] | None = None
    lookahead: Annotated[int, Field(ge=0, le=64)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        rates = self.acceptance
        if self.tokens and len(rates) not in (1, self.tokens):
            raise ValueError(
                f"acceptance: expected one rate or {self.tokens}, one a token, not {len(rates)}"
            )
        if any(later > earlier for earlier, later in pairwise(rates)):
            raise ValueError(
                "acceptance: expected rates that do not rise: a draft's second token is accepted"
                " only where its first is"
            )
        if self.draft is not None and self.draft_cost is not None:
            raise ValueError("expected draft or draft_cost, not both")
        return self

    def draft_model(self, devices: int) -> ModelSpec | None:
        """What each of ``devices`` devices holds of the draft model, if there is one.

        Raises `InputError` for a model that does not keep all of its context as tokens.
        """
        if self.draft is None or not self.tokens:
            return None
        model = shard_of(model_of(self.draft), devices)
        if model.state_bytes or not model.token_bytes("f16"):
            raise InputError(
                f"speculation.draft: {model.name} has layers that keep states; expected a model of"
                " attention layers"
            )
        return model

    def speculation(self, budget: Budget, time_model: str, hardware: str, seed: int) -> Speculation:
        """Fresh drafts for one engine."""
        rates = self.acceptance
        if len(rates) < self.tokens:
            rates = constant_rates(rates[0], self.tokens)
        drafter: Drafter | None = None
        draft = self.draft_model(budget.devices)
        if draft is not None:
            clock = time_model_of(time_model, replace(budget, model=draft), hardware)
            if not clock.divisible:
                raise InputError(
                    f"speculation.draft: time model {time_model} was measured for one model, and"
                    " cannot price another; expected draft_cost"
                )
            drafter = DraftModel(draft, clock)
        elif self.draft_cost:
            drafter = Heads(self.draft_cost, self.tokens)
        lookahead = self.tokens if draft is not None else 0
        if self.lookahead is not None:
            lookahead = self.lookahead
        return Speculation(rates[: self.tokens], seed, drafter, lookahead)
