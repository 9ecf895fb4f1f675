"""What click does for all commands: modules are imported late, inputs are not written over."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from asr.errors import InputError, nearest

# parameters that name what is written
OUTPUTS = {"output", "html", "plot", "json_file", "save_outputs"}


class Command(click.Command):
    """Refuses to write over a file that it reads: `-o` in the wrong place would destroy it.

    in_place: the parameter whose file may be replaced by what is made of it.
    """

    def __init__(self, *args: Any, in_place: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.in_place = in_place

    def invoke(self, ctx: click.Context) -> Any:
        files: dict[str, list[Path]] = {}
        for name, value in ctx.params.items():
            given = value if isinstance(value, tuple) else (value,)
            files[name] = [path for path in given if isinstance(path, Path) and path.is_file()]
        read = [path for name in files.keys() - OUTPUTS - {self.in_place} for path in files[name]]
        for name in files.keys() & OUTPUTS:
            for path in files[name]:
                if any(path.samefile(other) for other in read):
                    what = "is read by this command, and would be written over"
                    raise InputError(what, path, "Give the output another name.")
        return super().invoke(ctx)


class LazyGroup(click.Group):
    """`lazy`: name -> (module in asr/commands with the attribute `command`, what it does).

    Commands of its own, added by the decorator, stand before those.
    """

    command_class = Command

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *self.lazy]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.lazy:
            return self.commands.get(name)
        module = importlib.import_module(f"asr.commands.{self.lazy[name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            raise click.UsageError(f"no command '{args[0]}'. {nearest(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, command.get_short_help_str(100)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows + [(name, text) for name, (_, text) in self.lazy.items()])
