"""Command options made from the fields of a recipe."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

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
    """As `recipe_options`, for these keys. defaults: whether `--help` shows their defaults."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_options(context: typer.Context, **values: Any) -> None:
            read = {name: values.pop(name) for name in keys}
            # Defaults are values too, so the parser's parameter source is needed; its enum is private to Typer.
            sources = {name: context.get_parameter_source(name) for name in read}
            given = {name: read[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}
            given |= {name: ",".join(value) for name, value in given.items() if isinstance(value, list)}
            command(**values, given=given)

        command_parameters = dict(inspect.signature(command, eval_str=True).parameters)
        del command_parameters["given"]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        key_parameters = [_parameter(key, default=defaults) for key in keys.values()]
        parameters = [*command_parameters.values(), context, *key_parameters]
        keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        with_options.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword_only}
        return with_options

    return decorate


def _parameter(key: Key, *, default: bool) -> inspect.Parameter:
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
    annotation = Annotated[annotation, typer.Option(*flags, help=field.metadata["help"], metavar=metavar)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=annotation)
