"""The methods: the three of SCALE, the baselines, and those that other packages bring.

A method is a `Method` object. Those of this package are in its modules, one file each, and are found there. Another
package brings its own by an entry point

    [project.entry-points."scale_cli.methods"]
    my-method = "my_package.my_module:METHOD"

or by `register(METHOD)`. Importing this loads no torch.
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
    Request,
    Size,
    Step,
    trained_parameters,
)

ENTRY_POINTS = "scale_cli.methods"
"""The entry point group of packages that bring methods."""
DEFAULT_METHOD = FFT.name
"""The method of a training that names none: full fine-tuning, which alone trains a model with random weights."""


class Methods(MutableMapping[str, Method]):
    """Methods by name, in the order of tables. They are looked up at the first access, not on import, so that a package
    which brings a method can import any module of this one."""

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
        found = self._all()
        return iter(sorted(found, key=lambda name: found[name].order))

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, Method]:
        if not self._complete:
            self._complete = True
            for method in (*_of_this_package(), *_of_other_packages()):
                register(method)
        return self._methods


METHODS = Methods()
"""Every method."""


def register(method: Method) -> None:
    """Add a method, for every command and function. Raises ValueError for a name that is taken."""
    if METHODS.get(method.name, method) is not method:
        raise ValueError(f"there is a method {method.name!r} already; choose another name")
    for other in METHODS.values():
        if method.yardstick and other.yardstick and other is not method and other.needs[0] == method.needs[0]:
            raise ValueError(f"{method.name}: {other.name} is the yardstick for {method.needs[0]} already")
    METHODS[method.name] = method


def find_method(name: str) -> Method:
    """The method of this name. Raises RequestError if no installed package has it."""
    if name not in METHODS:
        raise RequestError(f"method {name!r} is not installed; installed are {', '.join(METHODS)}")
    return METHODS[name]


def method_names() -> tuple[str, ...]:
    """The names of all methods, in the order of tables."""
    return tuple(METHODS)


def option_classes() -> dict[str, type]:
    """The option class of every method, by the method's name."""
    return {name: method.options for name, method in METHODS.items()}


def method_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of every method by its name, from values by key; None means not given.

    Raises RequestError for a key that is no option of any method, and for a value that does not fit.
    """
    return load_variants(option_classes(), values)


def own_values(method: Method, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by key that are options of the method."""
    return {name: values[name] for name in method.options.__dataclass_fields__ if name in values}  # type: ignore[attr-defined]


def yardstick(kind: Kind) -> Method:
    """The method by whose trained parameters plans compare the sizes of an upscaling."""
    return next(method for method in METHODS.values() if method.yardstick and method.needs[0] == kind)


def _of_this_package() -> Iterator[Method]:
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        found = vars(importlib.import_module(module.name)).values()
        yield from (value for value in found if isinstance(value, Method))


def _of_other_packages() -> Iterator[Method]:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            yield entry.load()
        except Exception as error:  # another package's mistake, which shall not stop the commands that do without it
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
    "Request",
    "Size",
    "Step",
    "find_method",
    "method_names",
    "method_options",
    "option_classes",
    "own_values",
    "register",
    "trained_parameters",
    "yardstick",
]
