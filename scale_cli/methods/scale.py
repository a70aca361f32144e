"""The three methods of SCALE (arXiv 2511.03270, section 4): SCALE-Preserve, SCALE-Adapt and SCALE-Route.

All three train the expansion of the same widened model. They differ in the W12 that are trained and in the router.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import option
from scale_cli.methods.cost import two_streams
from scale_cli.methods.method import Look, Method, NoOptions
from scale_cli.methods.teacher import own_base

PAPER_PRESERVE_LAYERS = 3


@dataclass(frozen=True)
class AdaptOptions:
    """The layers and modules whose W12 is trained."""

    preserve_layers: int | None = option(
        None,
        help="L_fp, the number of lowest layers without W12 under scale-adapt and scale-route.  [3, or 0 for a model "
        "of 3 layers or fewer]",
    )
    adapt_modules: tuple[str, ...] = option(
        ("attention",),
        help="The modules whose W12 is trained in the layers above L_fp.",
        choices=("attention", "ffn"),
    )

    def __post_init__(self) -> None:
        if self.preserve_layers is not None and self.preserve_layers < 0:
            raise ValueError(f"--preserve-layers {self.preserve_layers}: a number of layers, at least 0")
        if not self.adapt_modules:
            raise ValueError("--adapt-modules is empty; choose attention, ffn or both (scale-preserve adapts none)")


@dataclass(frozen=True)
class RouteOptions(AdaptOptions):
    """The layers and modules whose W12 is trained, and the router's threshold."""

    threshold: float = option(0.5, help="tau of scale-route: a token with a cosine above it takes the preserve branch.")


def resolve(options: Any, config: Any) -> Any:
    """The options with `preserve_layers` filled in: by default the paper's 3.

    Raises RequestError if no layer is left to collaborate.
    """
    count, preserved = config.num_hidden_layers, options.preserve_layers
    if preserved is None:
        preserved = PAPER_PRESERVE_LAYERS if count > PAPER_PRESERVE_LAYERS else 0
    if preserved >= count:
        raise RequestError(
            f"--preserve-layers {preserved}: the model has {count} layers and at least one must collaborate; choose 0 "
            f"to {count - 1}, or --method scale-preserve"
        )
    return dataclasses.replace(options, preserve_layers=preserved)


def apply_preserve(model: Any, options: NoOptions, new_layers: Sequence[int]) -> Any:
    """SCALE-Preserve: no W12. The base's half of every hidden state never changes (theorem 3.1)."""
    return _train_expansion(model, PRESERVE.name, (), ())


def apply_adapt(model: Any, options: AdaptOptions, new_layers: Sequence[int]) -> Any:
    """SCALE-Adapt: the W12 of the chosen modules in the layers above L_fp are trained as well, from zero."""
    return _train_expansion(model, ADAPT.name, _collaborating(model, options), options.adapt_modules)


def apply_route(model: Any, options: RouteOptions, new_layers: Sequence[int]) -> Any:
    """SCALE-Route: SCALE-Adapt with the router of eq. 5, which sends a token through W12 or to the preserve branch."""
    layers = _collaborating(model, options)
    return _train_expansion(model, ROUTE.name, layers, options.adapt_modules, threshold=options.threshold)


def _collaborating(model: Any, options: AdaptOptions) -> range:
    """The layers above L_fp."""
    return range(resolve(options, model.config).preserve_layers, model.config.num_hidden_layers)


def _train_expansion(
    model: Any, method: str, layers: Sequence[int], modules: Sequence[str], *, threshold: float | None = None
) -> Any:
    """The model with W12 in these layers and modules, its base frozen and its expansion trainable.

    Raises RequestError if this would drop trained W12 of the checkpoint.
    """
    collaborating = model.config.collaborative
    if not (set(collaborating["layers"]) <= set(layers) and set(collaborating["modules"]) <= set(modules)):
        raise RequestError(
            f"--method {method}: the checkpoint has trained W12 of {', '.join(collaborating['modules'])} in layers "
            f"{', '.join(map(str, collaborating['layers']))}, counted from 0, and this would drop some; keep them by "
            "--preserve-layers and --adapt-modules, or train from the checkpoint before"
        )
    model.set_collaboration(layers, modules, threshold=threshold)
    model.base.requires_grad_(False)
    model.expansion.requires_grad_(True)
    return model


PRESERVE = Method(
    name="scale-preserve",
    title="SCALE-Preserve",
    group="SCALE",
    needs=("width",),
    lr=3e-3,
    apply=apply_preserve,
    cost=two_streams,
    teacher=own_base,
    keeps_base=True,
    paper=True,
    order=4,
    look=Look("#0f7f5c", "#43c99c", "o"),
)
ADAPT = Method(
    name="scale-adapt",
    title="SCALE-Adapt",
    group="SCALE",
    needs=("width",),
    lr=1e-3,
    apply=apply_adapt,
    options=AdaptOptions,
    resolve=resolve,
    cost=two_streams,
    teacher=own_base,
    yardstick=True,
    paper=True,
    order=5,
    look=Look("#1f86bd", "#63b9ea", "s"),
)
ROUTE = Method(
    name="scale-route",
    title="SCALE-Route",
    group="SCALE",
    needs=("width",),
    lr=1e-3,
    apply=apply_route,
    options=RouteOptions,
    resolve=resolve,
    cost=two_streams,
    teacher=own_base,
    paper=True,
    order=6,
    look=Look("#1b4fa8", "#86abff", "D"),
)
