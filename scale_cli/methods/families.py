"""The family of the model that a method trains: the names of its layers and linear maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scale_cli.core.errors import RequestError

if TYPE_CHECKING:
    from scale_cli.model import Family


def family_for(model: Any, method: str) -> Family:
    """The family of a plain model. method: its name, for the RequestError that is raised for an unknown family."""
    from scale_cli.model import family_of

    try:
        return family_of(model.config.model_type)
    except ValueError as error:
        raise RequestError(f"--method {method}: {error}; --method fft trains any") from error
