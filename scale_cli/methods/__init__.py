"""The training methods: the three of SCALE, the baselines, and methods that other packages add.

A method is a `Method` object. Every `Method` in a module of this package is registered. Another package adds a method
by an entry point

    [project.entry-points."scale_cli.methods"]
    my-method = "my_package.my_module:METHOD"

or by `register(METHOD)`. Importing this does not import torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import load_variants
from scale_cli.methods.cost import Cost
from scale_cli.methods.fft import FFT
from scale_cli.methods.method import (
    ExtraData,
    Kind,
    Look,
    Method,
    NoOptions,
    OldTexts,
    Request,
    Size,
    Step,
    trained_parameters,
)

ENTRY_POINTS = "scale_cli.methods"
"""The entry point group of packages that add methods."""
DEFAULT_METHOD = FFT.name
"""The default method: full fine-tuning. It is also the only one that can train a model with random weights."""


class Methods(MutableMapping[str, Method]):
    """Methods by name, in the order of tables.

    They are collected at the first access, not on import, so a package that adds a method can import any module of
    this one.
    """

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}
        self._complete = False

    def __getitem__(self, name: str) -> Method:
        return self._all()[name]

    def __setitem__(self, name: str, method: Method) -> None:
        self._all()[name] = method

    def __delitem__(self, name: str) -> None:
        del self._all()[name]

    def __iter__(self) -> Iterator[str]:
        methods = self._all()
        return iter(sorted(methods, key=lambda name: methods[name].order))

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, Method]:
        if not self._complete:
            self._complete = True
            for method in (*_own_methods(), *_entry_point_methods()):
                register(method)
        return self._methods


METHODS = Methods()
"""All methods by name."""


def register(method: Method) -> None:
    """Add a method to every command and function.

    Raises ValueError if another method has the name, or is the yardstick for the same kind of checkpoint.
    """
    if METHODS.get(method.name, method) is not method:
        raise ValueError(f"another method is named {method.name!r}; choose another name")
    for other in METHODS.values():
        if method.yardstick and other.yardstick and other is not method and other.needs[0] == method.needs[0]:
            raise ValueError(f"{method.name}: {other.name} is already the yardstick for {method.needs[0]}")
    METHODS[method.name] = method


def find_method(name: str) -> Method:
    """The method of this name. Raises RequestError if no installed package has it."""
    if name not in METHODS:
        raise RequestError(f"method {name!r} is not installed; installed: {', '.join(METHODS)}")
    return METHODS[name]


def method_names() -> tuple[str, ...]:
    """The names of all methods, in the order of tables."""
    return tuple(METHODS)


def paper_methods() -> tuple[str, ...]:
    """The names of the methods that the paper compares, in the order of tables."""
    return tuple(name for name, method in METHODS.items() if method.paper)


def option_classes() -> dict[str, type]:
    """The option class of every method, by the method's name."""
    return {name: method.options for name, method in METHODS.items()}


def method_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options object of every method, by the method's name.

    values: by option key; None means not given. Raises RequestError for a key that is not an option of any method, and
    for an invalid value.
    """
    return load_variants(option_classes(), values)


def own_values(method: Method, values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `values` whose keys are options of the method."""
    return {name: values[name] for name in method.options.__dataclass_fields__ if name in values}  # type: ignore[attr-defined]


def default_method(kind: Kind) -> str:
    """The name of the default method for a kind of checkpoint: the first one, in the order of tables, made for it."""
    return next(name for name, method in METHODS.items() if method.needs[0] == kind)


def yardstick(kind: Kind) -> Method:
    """The method whose trained parameters `scale plan` counts for an upscaling of this kind, "width" or "depth"."""
    return next(method for method in METHODS.values() if method.yardstick and method.needs[0] == kind)


def _own_methods() -> Iterator[Method]:
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        values = vars(importlib.import_module(module.name)).values()
        yield from (value for value in values if isinstance(value, Method))


def _entry_point_methods() -> Iterator[Method]:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            yield entry.load()
        except Exception as error:  # a fault of another package must not stop commands that do not need the method
            warnings.warn(f"the method {entry.name} of {entry.value} does not load: {error!r}", stacklevel=1)


__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "Cost",
    "ExtraData",
    "Kind",
    "Look",
    "Method",
    "NoOptions",
    "OldTexts",
    "Request",
    "Size",
    "Step",
    "default_method",
    "find_method",
    "method_names",
    "method_options",
    "option_classes",
    "own_values",
    "paper_methods",
    "register",
    "trained_parameters",
    "yardstick",
]
