"""Command options made from the fields of a recipe."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from scale_cli.core.recipe import Key, choices_of, keys_of


def recipe_options(cls: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a Typer command one documented option for each key of a recipe class.

        @recipe_options(TrainRecipe)
        def train(out: Annotated[Path, typer.Argument(help="...")], *, given: dict[str, Any]) -> None:
            recipe = load_recipe(TrainRecipe, None, given)

    The command is called with `given`: the values by key of only those options that were on the command line.
    `--help` shows each key's default, after the command's own parameters.
    """
    return key_options(keys_of(cls))


def key_options(
    keys: Mapping[str, Key], *, defaults: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As `recipe_options`, for these keys. defaults: whether `--help` shows their defaults.

    A command with a parameter `context` receives Typer's context.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_options(context: typer.Context, **values: Any) -> None:
            read = {name: values.pop(name) for name in keys}
            # Defaults are values too, so the parser's parameter source is needed; its enum is private to Typer.
            sources = {name: context.get_parameter_source(name) for name in read}
            given = {name: read[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}
            given |= {name: ",".join(value) for name, value in given.items() if isinstance(value, list)}
            if passes_context:
                values["context"] = context
            command(**values, given=given)

        command_parameters = dict(inspect.signature(command, eval_str=True).parameters)
        del command_parameters["given"]
        passes_context = command_parameters.pop("context", None) is not None
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        group, key_parameters = None, []
        for key in keys.values():
            group = key.field.metadata["group"] or group
            key_parameters.append(_parameter(key, default=defaults, group=group))
        parameters = [*command_parameters.values(), context, *key_parameters]
        keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        with_options.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword_only}
        return with_options

    return decorate


class GroupedCommand(TyperCommand):
    """A command whose `--help` has a heading per group of options. Typer has them only in help drawn by rich."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for heading, records in self.groups(ctx).items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def groups(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """Names and help of the parameters by heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        first = {name: groups.pop(name) for name in ("Arguments", "Options") if name in groups}  # --help is last
        return first | groups


def _parameter(key: Key, *, default: bool, group: str | None) -> inspect.Parameter:
    """The keyword parameter that Typer turns into the key's option. default: whether it has the key's default."""
    field, kind = key
    choices, metavar = choices_of(field), None
    annotation: Any = kind
    value: Any = field.default if default else None
    optional = not default
    if get_origin(annotation) in (Union, types.UnionType):
        optional = True
        (annotation,) = (argument for argument in get_args(annotation) if argument is not type(None))
    if get_origin(annotation) is tuple:  # words with commas, which load_recipe splits; the option may be repeated
        item = get_args(annotation)[0]
        allowed = choices or get_args(item) or (item.__name__,)
        annotation, metavar = list[str], f"<{'|'.join(allowed)},...>"
        value = None if value is None else list(map(str, value))
    elif choices:
        annotation = Literal[choices]
    if optional:
        annotation |= None
    flags = [field.metadata["flag"]] if field.metadata["flag"] else []
    shown = {"help": field.metadata["help"], "metavar": metavar, "rich_help_panel": group}
    shown["show_default"] = field.metadata["show_default"]
    annotation = Annotated[annotation, typer.Option(*flags, **shown)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=annotation)
