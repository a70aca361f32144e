"""SCALE: widen a causal language model without changing what it computes, and train only what was added."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["evaluate", "generate", "load", "report", "train", "upscale"]

if TYPE_CHECKING:
    from scale_cli.api import evaluate, generate, load, report, train, upscale


def __getattr__(name: str) -> Any:
    """The names of `scale_cli.api`, which loads torch, at their first use."""
    if name in __all__:
        from scale_cli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
