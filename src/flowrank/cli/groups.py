"""Options in groups: commands take dataclasses of options, and their help shows the essential ones first."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

_ALL = "flowrank.help_all"


class Command(TyperCommand):
    """Shows the options without a panel on ``--help``, and those in panels as well on ``--help-all``."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the essential options, and how many others there are; all where they were asked for."""
        further = [one for one in self.params if getattr(one, "rich_help_panel", None)]
        shown = copy.copy(self)
        if further and not ctx.meta.get(_ALL):
            panels = "; ".join(dict.fromkeys(str(one.rich_help_panel) for one in further))  # type: ignore[attr-defined]
            shown.params = [one for one in self.params if one not in further]
            shown.epilog = f"{len(further)} more options with `{ctx.command_path} --help-all`: {panels}."
        super(Command, shown).format_help(ctx, formatter)


def grouped(function: Callable[..., None], more: Sequence[inspect.Parameter] = ()) -> Callable[..., None]:
    """Make a command that typer understands of a function whose parameters may be groups of options.

    A group is a frozen dataclass whose fields are annotated for typer; ``panel``, a class variable, is the title
    under which ``--help-all`` shows its options, or None for essential options, which ``--help`` shows.

    Parameters
    ----------
    function
        Of keyword arguments: arguments and options annotated for typer, and groups.
    more
        Options for the ``**keywords`` of the function; help shows them before its own.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Size:
    ...     panel = "Size of the model"
    ...     width: Annotated[int, typer.Option(help="Width.")] = 8
    ...     layers: Annotated[int, typer.Option(help="Layers.")] = 2
    >>> def build(name: str, size: Size) -> None:
    ...     print(name, size.width * size.layers)
    >>> command = grouped(build)
    >>> list(inspect.signature(command).parameters)
    ['name', 'width', 'layers', 'help_all']
    >>> command(name="wide", width=100, layers=2)
    wide 200
    """
    told = inspect.signature(function, eval_str=True).parameters.values()
    groups: dict[str, Any] = {one.name: one.annotation for one in told if is_dataclass(one.annotation)}
    parameters = list(more)
    for one in told:
        if one.name in groups:
            parameters += _options_of(groups[one.name])
        elif one.kind is not inspect.Parameter.VAR_KEYWORD:
            parameters.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    if any(option.rich_help_panel for option in map(_option, parameters) if option is not None):
        parameters.append(_help_all())

    def command(**given: Any) -> None:
        given.pop("help_all", None)  # its callback has ended the program if it was given
        values = {
            name: kind(**{one.name: given.pop(one.name) for one in fields(kind)}) for name, kind in groups.items()
        }
        function(**values, **given)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _options_of(group: Any) -> list[inspect.Parameter]:
    """Parameters for the fields of a group, in its panel."""
    kinds, made = get_type_hints(group, include_extras=True), []
    annotated: Any = Annotated  # mypy knows no types that are values
    for one in fields(group):
        option = copy.copy(kinds[one.name].__metadata__[0])
        option.rich_help_panel = group.panel
        annotation = annotated[kinds[one.name].__origin__, option]
        default = inspect.Parameter.empty if one.default is MISSING else one.default
        made.append(inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return made


def _option(parameter: inspect.Parameter) -> Any:
    return next(iter(getattr(parameter.annotation, "__metadata__", ())), None)


def _help_all() -> inspect.Parameter:
    option = typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show all options and exit.")
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter("help_all", keyword, default=False, annotation=Annotated[bool, option])


def _show_all(ctx: typer.Context, value: bool) -> None:
    if value:
        ctx.meta[_ALL] = True
        typer.echo(ctx.get_help())
        raise typer.Exit
