"""Recipes: frozen dataclasses whose values come from defaults, a YAML file and command-line flags.

    @dataclass(frozen=True)
    class TrainRecipe:
        lr: float = option(1e-4, help="Peak learning rate.")

        def __post_init__(self) -> None:
            if self.lr <= 0:
                raise ValueError(f"--lr {self.lr}: a learning rate is above 0")

A field's type is bool, int, float, str, Path, a Literal of strings, a tuple of one of these (`tuple[str, ...]`), or any
of these or None. A field without a flag may also be a `Mapping` from strings to such values, or `Mapping[str, Any]`.
`~` at the beginning of a path is replaced by the home folder, in strings as well as in paths.
"""

import contextlib
import csv
import dataclasses
import difflib
import re
import reprlib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from scale_cli.core.errors import RequestError
from scale_cli.core.files import INLINE, expand_home, plain, write_text

Recipe = TypeVar("Recipe")
_COUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[kmb]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
Choices = tuple[str, ...] | Callable[[], tuple[str, ...]] | None
"""The allowed words, or a function that returns them."""


def option(
    default: Any,
    *,
    help: str,
    flag: str | None = None,
    choices: Choices = None,
    group: str | None = None,
    show_default: bool = True,
) -> Any:
    """A recipe field.

    default: the value if neither file nor flag gives one; immutable.
    help: one sentence for `--help`.
    flag: the name on the command line, `--lr` or `--shuffle/--no-shuffle`; None derives it from the field's name.
    choices: the strings allowed in a str or `tuple[str, ...]` field.
    group: the heading in `--help` of this field and of the following ones up to the next with a group.
    show_default: whether `--help` shows `default`.
    """
    metadata = {"help": help, "flag": flag, "choices": choices, "group": group, "show_default": show_default}
    return dataclasses.field(default=default, metadata=metadata)


def variant_options(*, chosen_by: str, classes: Callable[[], Mapping[str, type]]) -> Any:
    """A recipe field that holds the options of one of several variants.

    The keys of these options stand beside the recipe's own keys, in YAML, on the command line and in records. Keys of
    variants that were not chosen are checked and left out.

    chosen_by: the str field that names the variant. classes: returns the option dataclass of each variant, by name.
    The recipe's `__post_init__` calls `fill_variant`, so the field of a constructed recipe is never None.
    """
    return dataclasses.field(default=None, metadata={INLINE: True, "chosen_by": chosen_by, "classes": classes})


def fill_variant(recipe: Any, name: str) -> None:
    """Give the variant field `name` of a frozen recipe the defaults of the chosen variant, if it is None.

    Raises ValueError if it holds the options of another variant.
    """
    field = recipe.__dataclass_fields__[name]
    cls = field.metadata["classes"]()[getattr(recipe, field.metadata["chosen_by"])]
    value = getattr(recipe, name)
    if value is None:
        object.__setattr__(recipe, name, cls())
    elif not isinstance(value, cls):
        raise ValueError(f"{name} is a {type(value).__name__}; {field.metadata['chosen_by']} needs a {cls.__name__}")


class Key(NamedTuple):
    """A key of a recipe: the dataclass field behind it, and its type."""

    field: dataclasses.Field[Any]
    kind: Any


def keys_of(cls: Any) -> dict[str, Key]:
    """The keys of a recipe class by name, in the order of its fields; those of all variants included.

    Raises ValueError if one name stands for two different options.
    """
    hints = get_type_hints(cls)
    keys: dict[str, Key] = {}
    for field in dataclasses.fields(cls):
        if not field.metadata.get(INLINE):
            keys[field.name] = Key(field, hints[field.name])
            continue
        for name, key in variant_keys(field.metadata["classes"]()).items():
            if name in keys:
                raise ValueError(f"the option {name!r} of a variant is a key of {cls.__name__} already")
            keys[name] = key
    return keys


def variant_keys(classes: Mapping[str, type]) -> dict[str, Key]:
    """The keys of all variants by name. Raises ValueError for an option that two variants define.

    Variants share an option by inheriting it from one class.
    """
    keys: dict[str, Key] = {}
    for cls in dict.fromkeys(classes.values()):
        for name, key in keys_of(cls).items():
            if keys.setdefault(name, key) != key:
                raise ValueError(f"{cls.__name__}: another variant defines the option {name!r} too; inherit it")
    return keys


def load_recipe(
    cls: type[Recipe],
    file: Path | None,
    overrides: Mapping[str, Any],
    *,
    complete: Callable[[dict[str, Any]], Mapping[str, Any]] = dict,
) -> Recipe:
    """The resolved recipe: defaults of `cls`, overridden by the YAML `file`, overridden by `overrides`.

    overrides: values by key, as from `recipe_options`; None means not given. Strings are parsed like flags.
    complete: returns the given values with defaults that follow from them.
    Of the keys in the class attribute `one_of` at most one may be given; an override takes the place of the file's.
    Raises RequestError for a file that cannot be read, an unknown or missing key, a value of the wrong type, and for
    every ValueError that the recipe's own checks raise.
    """
    keys = keys_of(cls)
    values: dict[str, Any] = {}
    if file is not None:
        values |= _checked(keys, _read_yaml(file), source=f"{file}: ")
    given = _checked(keys, {name: value for name, value in overrides.items() if value is not None}, source="")
    one_of: tuple[str, ...] = getattr(cls, "one_of", ())
    if not given.keys().isdisjoint(one_of):
        values = {name: value for name, value in values.items() if name not in one_of}
    values |= given
    chosen = [f"--{name} {values[name]}" for name in one_of if values.get(name) is not None]
    if len(chosen) > 1:
        raise RequestError(f"{chosen[0]} and {chosen[1]} each set the amount of training; give one of them")
    values = _checked(keys, complete(values), source="")
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    required = [field.name for field in fields if _is_required(field)]
    if missing := [name for name in required if name not in values]:
        raise RequestError(f"{f'{file}: ' if file else ''}the key {missing[0]!r} is missing")
    own = {field.name: values[field.name] for field in fields if field.name in values}
    try:
        for field in fields:
            if field.metadata.get(INLINE):
                name = field.metadata["chosen_by"]
                default = next(other.default for other in fields if other.name == name)
                own[field.name] = _variants(field.metadata["classes"](), values)[values.get(name, default)]
        return cls(**own)
    except ValueError as error:
        raise RequestError(str(error)) from error


def changed(recipe: Recipe, **values: Any) -> Recipe:
    """The recipe with other values, by key. Raises RequestError as `load_recipe`."""
    return load_recipe(type(recipe), None, values_of(recipe) | values)


def values_of(recipe: Any) -> dict[str, Any]:
    """The values of a recipe by key, those of the chosen variant beside its own."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        values |= values_of(value) if field.metadata.get(INLINE) else {field.name: value}
    return values


def save_recipe(recipe: Any, path: Path) -> None:
    """Write all values of a recipe as YAML. `load_recipe` reads the file back to an equal recipe."""
    import yaml

    write_text(path, yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True))


def load_variants(classes: Mapping[str, type], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The options of every variant by its name. overrides, errors: as those of `load_recipe`."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return _variants(classes, _checked(variant_keys(classes), given, source=""))
    except ValueError as error:
        raise RequestError(str(error)) from error


def _variants(classes: Mapping[str, type], values: Mapping[str, Any]) -> dict[str, Any]:
    """Every variant with those of the values that are its options."""
    return {
        name: cls(**{key: values[key] for key in cls.__dataclass_fields__ if key in values})  # type: ignore[attr-defined]
        for name, cls in classes.items()
    }


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


def _checked(keys: Mapping[str, Key], values: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    checked = {}
    for name, value in values.items():
        if name not in keys:
            near = difflib.get_close_matches(str(name), keys, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(keys)}"
            raise RequestError(f"{source}unknown key {str(name)!r}; {hint}")
        try:
            checked[name] = _coerce(value, keys[name].kind, choices_of(keys[name].field))
        except ValueError as error:
            raise RequestError(f"{source}{name}: {_shown(value)} is not {error}") from None
    return checked


def _shown(value: Any) -> str:
    """The value in a message, cut if it is long or deep; aliases in YAML unfold a short text to millions of items."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 200
    short.maxlevel = 2
    return short.repr(value)


def choices_of(field: dataclasses.Field[Any]) -> tuple[str, ...] | None:
    """The words allowed in a field, None for any."""
    choices: Choices = field.metadata.get("choices")
    return choices() if callable(choices) else choices


def split_list(text: str) -> list[str]:
    """The items of a list with commas. An item in double quotes may contain a comma, as in CSV."""
    (items,) = csv.reader([text], skipinitialspace=True)
    return [item.strip() for item in items if item.strip()]


def parse_count(flag: str, text: str) -> int:
    """The number in "20M": digits, and k, M or B for 10^3, 10^6 and 10^9. Raises ValueError for anything else."""
    found = _COUNT.fullmatch(text.strip())
    if found is None or (count := round(float(found["number"]) * _UNITS[found["unit"].lower()])) < 1:
        raise ValueError(f"{flag} {text}: write a number above 0, as in 500k, 20M or 1.5B")
    return count


def _coerce(value: Any, kind: Any, choices: tuple[str, ...] | None) -> Any:
    """`value` converted to type `kind`. Raises ValueError with the expected type.

    Numbers may be strings, because YAML 1.1 reads 1e-3 as a string.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _coerce(value, inner, choices)
    if origin is tuple:
        items = split_list(value) if isinstance(value, str) else value
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
    if kind is Path and isinstance(value, str | Path):
        return Path(expand_home(str(value)))
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):  # bool is a subclass of int
        return expand_home(value) if kind is str else value
    if (kind is float and type(value) is int) or (kind in (int, float) and isinstance(value, str)):
        with contextlib.suppress(ValueError):
            return kind(value)
    raise ValueError(
        {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}[kind]
    )
