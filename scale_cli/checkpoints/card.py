"""The model card of every folder that is written: its origin, how it was made, how to load and cite it.

A card contains only information from the JSON files beside the weights (`upscale.json`, `record.json`, `trained.json`,
`export.json`). Its text is in the templates beside this file.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scale_cli.checkpoints.schemas import (
    EXPORT,
    POINTER,
    RECORD,
    UPSCALE,
    Run,
    RunFields,
    UpscaleFields,
    read_export,
    read_pointer,
    read_run,
    read_upscale,
)
from scale_cli.core.errors import RequestError
from scale_cli.core.files import check_inside, write_text
from scale_cli.methods import METHODS, own_values

CARD = "README.md"
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""The files of a base that licences require in every copy and derivative."""
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
"""The names of licences on the hub."""
LICENCE_FIELDS = ("license", "license_name", "license_link")
TEMPLATES = Path(__file__).with_name("templates")

Form = Literal["width", "depth", "plain"]
_RECIPE = {
    "objective": "objective",
    "steps": "steps",
    "batch_size": "sequences per batch",
    "gradient_accumulation_steps": "batches per step",
    "seq_length": "tokens per sequence",
    "lr": "peak learning rate",
    "schedule": "schedule of the learning rate",
    "warmup": "warm-up, as a share of the steps",
    "weight_decay": "weight decay",
    "seed": "seed",
}
"""The keys of a training recipe that a card shows after the method and its options, in this order, and their names."""
_SHA256_DIGITS = 64


@dataclass(frozen=True)
class Origin:
    """The information that a card inherits from the source, the folder that the new one was made from.

    folder: the source; its licence files are copied.
    base_model: the hub id of the first model in the chain, None if no hub id is known.
    licence: the licence fields in the front matter of the source's card, empty if there are none.
    """

    folder: Path
    base_model: str | None
    licence: dict[str, str]

    def stating(self, base_model: str | None, licence: str | None) -> Origin:
        """The origin with a hub id and a licence that the user states; None keeps the inherited one."""
        fields = self.licence if licence is None else {"license": licence}
        return replace(self, base_model=base_model or self.base_model, licence=fields)


def check_stated(base_model: str | None, licence: str | None) -> None:
    """Raise RequestError for a hub id or a licence that no card can hold."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, and not marked so

    if base_model is not None:
        try:
            validate_repo_id(base_model)
        except HFValidationError as error:
            raise RequestError(f"--base-model {base_model}: not a hub id; give owner/name") from error
    if licence is not None and not LICENCE.fullmatch(licence):
        raise RequestError(f"--licence {licence}: not a licence as the hub names it, such as apache-2.0 or llama3.2")


def origin(folder: Path, *, hub_id: str | None = None) -> Origin:
    """The information that a card inherits from `folder`. hub_id: that of the model, if the folder is its snapshot."""
    front = _front_matter(folder / CARD)
    licence = {name: str(front[name]) for name in LICENCE_FIELDS if isinstance(front.get(name), str)}
    base_model = hub_id
    if hub_id is None and any((folder / name).is_file() for name in (UPSCALE, RECORD, POINTER, EXPORT)):
        stated = front.get("base_model")  # only in our own cards; in others it is the model that *they* started from
        base_model = stated if isinstance(stated, str) else None
    return Origin(folder, base_model, licence)


def history(folder: Path) -> list[dict[str, Any]]:
    """The steps by which a folder was made, upscaling and training, oldest first, from the folder's files.

    Each step contains the values that a card shows, and its kind under "step". Folders and files are given by name,
    without their path; datasets and models of the hub with their owner.
    """
    if (exported := read_export(folder)) is not None:
        return [dict(step) for step in exported["history"]]
    steps: list[dict[str, Any]] = []
    if (record := read_upscale(folder)) is not None:
        base = record["base"]
        base_fields = {
            "base": base["id"] if "id" in base else Path(base.get("name") or base.get("path", "")).name,
            "revision": base.get("revision"),
            "weights_sha256": base["weights_sha256"],
        }
        steps.append({"step": "upscale"} | base_fields | _fields(record, UpscaleFields))
    if (run := read_run(folder)) is not None:
        source, revision = run["base"]["source"], run["base"].get("revision")
        # Older records of a hub id have no revision.
        is_old_hub_id = run["base"]["fingerprint"] is None and source.count("/") == 1 and source[0] not in "./~"
        run_fields = {
            "from": source if revision or is_old_hub_id else Path(source).name,
            "revision": revision,
            "data": [_data(run, given) for given in run["data"]],
            "recipe": _shown(run["recipe"]) | _chosen(run),
        }
        steps.append({"step": "train"} | run_fields | _fields(run, RunFields))
    elif (folder / POINTER).is_file():
        pointer = read_pointer(folder)
        recipe = pointer["options"] | {"method": pointer["method"], "from_scratch": pointer["from_scratch"]}
        steps.append({"step": "train", "recipe": _shown(recipe)})
    return steps


def _fields(record: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    """The fields of a record that a schema has."""
    return {name: record[name] for name in schema.__annotations__ if name in record}


def _shown(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe that a card shows, in order. Older recipes contain the options of all methods."""
    method = METHODS.get(recipe["method"])
    options = own_values(method, recipe) if method else {}
    values = {name: recipe.get(name) for name in ("method", "from_scratch", *options, *_RECIPE)}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def _chosen(record: Mapping[str, Any]) -> dict[str, int]:
    """The steps of a run that ended early or kept an earlier step than the last. Older records have no choice."""
    planned = record["recipe"].get("steps")
    done = record.get("steps", planned)
    kept = record.get("kept_step", done)
    return ({"steps_done": done} if done != planned else {}) | ({"kept_step": kept} if kept != done else {})


def _data(run: Run, given: str) -> list[str | float | None]:
    """A source of `--data` in a card: its name, without a file's path but with a dataset's owner; its digest, its bytes
    and how often it was read, both None if unknown.
    """
    digest = run["data"][given]
    sizes = [run.get(name, {}).get(given) for name in ("data_bytes", "epochs")]  # type: ignore[attr-defined]
    return [given if _is_commit(digest) else Path(given).name, digest, *sizes]


def _is_commit(digest: str) -> bool:
    """Whether a digest of data is the commit of a dataset of the hub, not a sha256."""
    return len(digest) != _SHA256_DIGITS


def write_card(
    folder: Path, *, name: str, form: Form, source: Origin, steps: Sequence[dict[str, Any]], whole: bool = True
) -> None:
    """Write README.md into `folder`, replacing an existing one, and copy the licence files of `source`.

    name: the model's folder name or hub id.
    form: "width" or "depth" if the model was upscaled by it, else "plain".
    steps: how the model was made, oldest first, as `history` returns them. A restored base has the step "base".
    whole: whether the folder loads by itself; False for a run that stores only trained tensors.
    """
    for pattern in LICENCES:
        for file in source.folder.glob(pattern):
            if file.is_file() and file.resolve() != (folder / file.name).resolve():
                check_inside(file, source.folder)
                shutil.copyfile(file, folder / file.name)
    write_text(folder / CARD, card_text(name=name, form=form, source=source, steps=steps, whole=whole))


def card_text(*, name: str, form: Form, source: Origin, steps: Sequence[dict[str, Any]], whole: bool = True) -> str:
    """The text of a card: YAML front matter and Markdown. The arguments are those of `write_card`."""
    recipes = [step["recipe"] for step in steps if step["step"] == "train"]
    methods = [recipe["method"] for recipe in recipes]
    if from_scratch := any(recipe.get("from_scratch") for recipe in recipes):
        source = replace(source, base_model=None, licence={})  # only its config was used
    return _template().render(
        front=_front(form, source, methods, steps, whole=whole),
        name=name,
        form=form,
        steps=steps,
        methods=methods,
        base_model=source.base_model,
        whole=whole,
        licence=None if from_scratch else _licence(source),
    )


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.tests["commit"] = _is_commit
    environment.globals["labels"] = _RECIPE
    environment.filters["number"] = _number
    return environment.get_template("card.md.jinja")


def _number(value: Any, missing: str = "not finite") -> str:
    """A measured value as text: "-" if there is none, `missing` for the null that stands for NaN."""
    from jinja2 import Undefined

    if isinstance(value, Undefined):
        return "-"
    return missing if value is None else f"{value:.4g}"


def _front(form: Form, source: Origin, methods: Sequence[str], steps: Sequence[dict[str, Any]], *, whole: bool) -> str:
    from huggingface_hub import ModelCardData

    is_restored_base = any(step["step"] == "base" for step in steps)
    upscaled = {"width": "width-upscaled", "depth": "depth-upscaled"}.get(form)
    tags = ["scale", *([upscaled] if upscaled else []), *methods]
    data = ModelCardData(
        base_model=None if is_restored_base else source.base_model,  # a restored base is that model itself
        library_name="transformers" if whole else None,
        pipeline_tag="text-generation",
        tags=tags,
        **source.licence,  # type: ignore[arg-type]
    )
    return str(data.to_yaml())


def _licence(source: Origin) -> dict[str, Any]:
    files = sorted({file.name for pattern in LICENCES for file in source.folder.glob(pattern) if file.is_file()})
    return {"name": source.licence.get("license_name") or source.licence.get("license"), "files": files}


def _front_matter(file: Path) -> dict[str, Any]:
    """The front matter of a card; empty without a card or if it cannot be read, as others may have written it."""
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    if not file.is_file():
        return {}
    try:
        return metadata_load(file) or {}
    except (OSError, ValueError, YAMLError):
        return {}
