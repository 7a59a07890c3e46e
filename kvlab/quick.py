"""Commands that convert nothing where nothing is given.

Typer makes converters even for defaults and for ``--help`` where it is not given, out of pydantic,
and importing pydantic takes nearly as long as all the rest of a short command.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


class QuickGroup(TyperGroup):
    """A group whose own flags are false unless they are given."""

    def get_help_option(self, ctx: Any) -> Any:
        """The ``--help`` of the group."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option


class QuickCommand(TyperCommand):
    """A command that may be called without arguments, and takes the defaults as they are then."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Let Typer convert what is given."""
        if args:
            return super().parse_args(ctx, args)
        ctx.params = {param.name: param.get_default(ctx) for param in self.params if param.name}
        return []
