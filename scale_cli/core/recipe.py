"""Recipes: frozen dataclasses whose values come from defaults, a YAML file and command-line flags.

    @dataclass(frozen=True)
    class TrainRecipe:
        lr: float = option(1e-4, help="Peak learning rate.")

        def __post_init__(self) -> None:
            if self.lr <= 0:
                raise ValueError(f"--lr {self.lr}: a learning rate is above 0")

A field's type is bool, int, float, str, Path, a Literal of strings, a tuple of one of these (`tuple[str, ...]`), or any
of these or None. A field without a flag may also be a `Mapping` from strings to such values, or `Mapping[str, Any]`.
"""

import contextlib
import dataclasses
import difflib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain, write_text

Recipe = TypeVar("Recipe")


def option(default: Any, *, help: str, flag: str | None = None, choices: tuple[str, ...] | None = None) -> Any:
    """A recipe field.

    default: the value if neither file nor flag gives one; immutable.
    help: one sentence for `--help`.
    flag: the name on the command line, `--lr` or `--shuffle/--no-shuffle`; None derives it from the field's name.
    choices: the strings allowed in a str or `tuple[str, ...]` field.
    """
    return dataclasses.field(default=default, metadata={"help": help, "flag": flag, "choices": choices})


def load_recipe(cls: type[Recipe], file: Path | None, overrides: Mapping[str, Any]) -> Recipe:
    """The resolved recipe: defaults of `cls`, overridden by the YAML `file`, overridden by `overrides`.

    overrides: values by field name, as from `recipe_options`; None means not given. Strings are parsed like flags.
    Raises RequestError for a file that cannot be read, an unknown or missing key, a value of the wrong type, and for
    every ValueError that the recipe's own checks raise.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values |= _checked(cls, _read_yaml(file), source=f"{file}: ")
    values |= _checked(cls, {name: value for name, value in overrides.items() if value is not None}, source="")
    required = [field.name for field in dataclasses.fields(cls) if _is_required(field)]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in values]:
        raise RequestError(f"{f'{file}: ' if file else ''}the key {missing[0]!r} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise RequestError(str(error)) from error


def save_recipe(recipe: Any, path: Path) -> None:
    """Write all values of a recipe as YAML. `load_recipe` reads the file back to an equal recipe."""
    import yaml

    write_text(path, yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True))


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: the recipe cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise RequestError(f"{file}: the recipe is not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RequestError(f"{file}: a recipe is a list of `key: value` lines")
    return values


def _checked(cls: Any, values: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    types_by_name = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    checked = {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(fields)}"
            raise RequestError(f"{source}unknown key {str(name)!r}; {hint}")
        try:
            checked[name] = _coerce(value, types_by_name[name], fields[name].metadata.get("choices"))
        except ValueError as error:
            raise RequestError(f"{source}{name}: {value!r} is not {error}") from None
    return checked


def _coerce(value: Any, kind: Any, choices: tuple[str, ...] | None) -> Any:
    """`value` converted to type `kind`. Raises ValueError with the expected type.

    Numbers may be strings, because YAML 1.1 reads 1e-3 as a string.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _coerce(value, inner, choices)
    if origin is tuple:
        items = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError("a list")
        return tuple(_coerce(item, arguments[0], choices) for item in items)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError("a list of `key: value` lines")
        return {str(key): _coerce(item, arguments[1], choices) for key, item in value.items()}
    if kind is Any:
        return value
    if origin is Literal:
        choices, kind = arguments, str
    if choices is not None and value not in choices:
        raise ValueError(f"one of {', '.join(choices)}")
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):  # bool is a subclass of int
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if (kind is float and type(value) is int) or (kind in (int, float) and isinstance(value, str)):
        with contextlib.suppress(ValueError):
            return kind(value)
    raise ValueError(
        {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}[kind]
    )
