"""Command options made from the fields of a recipe."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer


def recipe_options(cls: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a Typer command one documented option for each field of a recipe class.

        @recipe_options(TrainRecipe)
        def train(out: Annotated[Path, typer.Argument(help="...")], *, given: dict[str, Any]) -> None:
            recipe = load_recipe(TrainRecipe, None, given)

    The command is called with `given`: the values by field name of only those options that were on the command line.
    `--help` shows each field's default, after the command's own parameters.
    """
    hints = get_type_hints(cls)
    fields = dataclasses.fields(cls)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_options(context: typer.Context, **values: Any) -> None:
            read = {field.name: values.pop(field.name) for field in fields}
            # Defaults are values too, so the parser's parameter source is needed; its enum is private to Typer.
            sources = {name: context.get_parameter_source(name) for name in read}
            given = {name: read[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}
            command(**values, given=given)

        own = dict(inspect.signature(command, eval_str=True).parameters)
        del own["given"]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [*own.values(), context, *(_parameter(field, hints[field.name]) for field in fields)]
        keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        with_options.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword_only}
        return with_options

    return decorate


def _parameter(field: dataclasses.Field[Any], kind: Any) -> inspect.Parameter:
    """The keyword parameter that Typer turns into the field's option."""
    choices, metavar = field.metadata["choices"], None
    default: Any = field.default
    optional = get_origin(kind) in (Union, types.UnionType)
    if optional:
        (kind,) = (argument for argument in get_args(kind) if argument is not type(None))
    if get_origin(kind) is tuple:  # one word with commas, which load_recipe splits
        item = get_args(kind)[0]
        words = choices or get_args(item) or (item.__name__,)
        kind, metavar = str, f"<{'|'.join(words)},...>"
        default = None if default is None else ",".join(map(str, default))
    elif choices:
        kind = Literal[choices]
    if optional:
        kind |= None
    flags = [field.metadata["flag"]] if field.metadata["flag"] else []
    annotation = Annotated[kind, typer.Option(*flags, help=field.metadata["help"], metavar=metavar)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
