"""The JSON files beside a checkpoint's weights that record how it was made, with the types of the fields that are read.

They may come from a stranger or another version. A field that is missing or of another type is a RequestError that
names the file and the field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from scale_cli.core.errors import RequestError
from scale_cli.core.files import read_json

UPSCALE, RECORD, POINTER, EXPORT = "upscale.json", "record.json", "trained.json", "export.json"
"""The files that record how a folder was made. Until a run's record is written, its pointer is used instead."""


class WeightIndex(TypedDict):
    """The index of a folder's safetensors files: the file of each tensor."""

    weight_map: dict[str, str]


class Pointer(TypedDict):
    """trained.json, from a run's trained tensors to their base. Older ones lack fingerprints."""

    base: str
    base_is_folder: bool
    from_scratch: bool
    method: str
    options: dict[str, Any]
    revision: NotRequired[str | None]
    base_fingerprint: NotRequired[str | None]
    data: NotRequired[list[str]]


class UpscaledBase(TypedDict):
    """The base in upscale.json: hub id and revision, or the name of a folder, in older files its path."""

    weights_sha256: dict[str, str]
    config: str
    id: NotRequired[str]
    name: NotRequired[str]
    path: NotRequired[str]
    revision: NotRequired[str | None]
    tokenizer_config: NotRequired[str]


class Proof(TypedDict):
    """The comparison of an upscaled model with its base in upscale.json."""

    max_delta_logit: float
    tolerance: float
    dtype: str
    probe_shape: list[int]


class Parameters(TypedDict):
    """The numbers of parameters in upscale.json."""

    base: int
    added: int


class UpscaleFields(TypedDict):
    """The fields of upscale.json that a card shows."""

    by: Literal["width", "depth"]
    sizes: dict[str, int]
    parameters: Parameters
    seed: NotRequired[int]
    proof: NotRequired[Proof | None]
    initialisation: NotRequired[dict[str, str]]
    svd_solver: NotRequired[dict[str, str]]
    new_layers: NotRequired[list[int]]


class Upscale(UpscaleFields):
    """upscale.json, of a widened or deepened folder. Older ones do not name the tensors."""

    base: UpscaledBase
    pretrained: NotRequired[list[str]]
    added: NotRequired[list[str]]


class TrainedBase(TypedDict):
    """The checkpoint that a run was trained from, in its record."""

    source: str
    fingerprint: str | None
    revision: NotRequired[str | None]


class Metric(TypedDict):
    """A measurement in the record of a run. null is NaN."""

    name: str
    value: float | None
    stderr: float | None
    samples: int


class RunFields(TypedDict):
    """The fields of a run's record that a card shows."""

    tokens: int
    seconds: float
    trained_parameters: int
    total_parameters: int
    metrics: list[Metric]
    before: NotRequired[dict[str, float | None]]


class Recipe(TypedDict):
    """The resolved recipe of a run; other keys depend on the method."""

    method: str
    lr: NotRequired[float | None]


class HeldOut(TypedDict):
    """A text that a run measured, in its record."""

    source: str
    sha256: str


class Run(RunFields):
    """record.json of `scale train`."""

    base: TrainedBase
    data: dict[str, str]
    recipe: Recipe
    data_bytes: NotRequired[dict[str, int]]
    epochs: NotRequired[dict[str, float | None]]
    eval_text: NotRequired[dict[str, HeldOut]]
    steps: NotRequired[int]
    kept_step: NotRequired[int]
    peak_memory_bytes: NotRequired[int]


class UpscaleStep(UpscaleFields):
    """An upscaling in export.json."""

    step: Literal["upscale"]
    base: str
    revision: str | None
    weights_sha256: dict[str, str]


def _checked_source(value: list[Any]) -> list[Any]:
    """Name, digest, and since schema 2 bytes and epochs of a source of data, as `history` returns them."""
    kinds: tuple[Any, ...] = (str, str, int | None, int | float | None)
    if len(value) not in (2, 4) or not all(map(isinstance, value, kinds)):
        raise ValueError("not the name, digest, bytes and epochs of a source")
    return value


class TrainStep(TypedDict):
    """A training in export.json; without the fields of its record if it had not ended."""

    step: Literal["train"]
    recipe: Recipe
    data: NotRequired[list[Annotated[list[Any], AfterValidator(_checked_source)]]]
    revision: NotRequired[str | None]
    tokens: NotRequired[int]
    seconds: NotRequired[float]
    trained_parameters: NotRequired[int]
    total_parameters: NotRequired[int]
    metrics: NotRequired[list[Metric]]
    before: NotRequired[dict[str, float | None]]


ENDED = {"tokens", "seconds", "trained_parameters", "total_parameters"}
"""The fields of a training that has ended."""


def _checked_step(step: TrainStep) -> TrainStep:
    """A training that has all fields of one that has ended, or none of them."""
    if (missing := ENDED - step.keys()) and missing != ENDED:
        raise ValueError(f"{min(missing)}: the field is missing")
    return step


class Export(TypedDict):
    """export.json, of a folder that `scale export` wrote."""

    history: list[UpscaleStep | Annotated[TrainStep, AfterValidator(_checked_step)]]
    dtype: str | None


def read_pointer(folder: Path) -> Pointer:
    """The pointer in a run's folder. Raises RequestError if it is damaged or missing, or if the run is its own base."""
    pointer = read_json(folder / POINTER, Pointer)
    if pointer["base_is_folder"] and (folder / pointer["base"]).resolve() == folder.resolve():
        raise RequestError(f"{folder / POINTER} is damaged: the base is the run itself; restore it")
    return pointer


def read_upscale(folder: Path) -> Upscale | None:
    """upscale.json; None without one, as when the library has saved a widened model."""
    return read_json(folder / UPSCALE, Upscale) if (folder / UPSCALE).is_file() else None


def read_run(folder: Path) -> Run | None:
    """The record of a run; None if the folder has none, or one of another command."""
    file = folder / RECORD
    if not file.is_file() or read_json(file).get("command") != "train":
        return None
    return read_json(file, Run)


def read_export(folder: Path) -> Export | None:
    """export.json; None without one."""
    return read_json(folder / EXPORT, Export) if (folder / EXPORT).is_file() else None
