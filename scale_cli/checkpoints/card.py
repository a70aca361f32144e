"""The model card of every folder that is written: its origin, how it was made, how to load and cite it.

A card contains only information from the JSON files beside the weights (`upscale.json`, `record.json`, `trained.json`,
`export.json`). Its text is in the templates beside this file.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scale_cli.core.files import check_inside, read_json, write_text
from scale_cli.methods import METHODS, own_values

CARD = "README.md"
UPSCALE, RECORD, POINTER, EXPORT = "upscale.json", "record.json", "trained.json", "export.json"
"""The files that record how a folder was made. Until a run's record is written, its pointer is used instead."""
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""The files of a base that licences require in every copy and derivative."""
LICENCE_FIELDS = ("license", "license_name", "license_link")
TEMPLATES = Path(__file__).with_name("templates")

Form = Literal["width", "depth", "plain"]
_UPSCALE = ("by", "sizes", "initialisation", "svd_solver", "new_layers", "seed", "parameters", "proof")
_RUN = ("tokens", "seconds", "trained_parameters", "total_parameters", "metrics")
"""The fields of upscale.json and of a run's record that a card shows."""
_RECIPE = ("objective", "steps", "batch_size", "gradient_accumulation_steps", "seq_length", "lr", "schedule", "seed")
"""The keys of a training recipe that a card shows after the method and its options, in this order."""
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
    if (folder / EXPORT).is_file():
        return list(read_json(folder / EXPORT)["history"])
    steps = []
    if (folder / UPSCALE).is_file():
        record = read_json(folder / UPSCALE)
        base = record["base"]
        base_fields = {
            "base": base["id"] if "id" in base else Path(base["path"]).name,
            "revision": base.get("revision"),
            "weights_sha256": base["weights_sha256"],
        }
        steps.append({"step": "upscale"} | base_fields | {name: record[name] for name in _UPSCALE if name in record})
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    if record.get("command") == "train":
        source, revision = record["base"]["source"], record["base"].get("revision")
        # Older records of a hub id have no revision.
        is_old_hub_id = record["base"]["fingerprint"] is None and source.count("/") == 1 and source[0] not in "./~"
        run_fields = {
            "from": source if revision or is_old_hub_id else Path(source).name,
            "revision": revision,
            "data": [_data(given, digest) for given, digest in record["data"].items()],
            "recipe": _shown(record["recipe"]) | _chosen(record),
        }
        steps.append({"step": "train"} | run_fields | {name: record[name] for name in _RUN})
    elif (folder / POINTER).is_file():
        pointer = read_json(folder / POINTER)
        recipe = pointer["options"] | {"method": pointer["method"], "from_scratch": pointer["from_scratch"]}
        steps.append({"step": "train", "recipe": _shown(recipe)})
    return steps


def _shown(recipe: dict[str, Any]) -> dict[str, Any]:
    """The values of a recipe that a card shows, in order. Older recipes contain the options of all methods."""
    method = METHODS.get(recipe["method"])
    options = own_values(method, recipe) if method else {}
    values = {name: recipe.get(name) for name in ("method", "from_scratch", *options, *_RECIPE)}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def _chosen(record: dict[str, Any]) -> dict[str, int]:
    """The steps of a run that ended early or kept an earlier step than the last. Older records have no choice."""
    planned = record["recipe"].get("steps")
    done = record.get("steps", planned)
    kept = record.get("kept_step", done)
    return ({"steps_done": done} if done != planned else {}) | ({"kept_step": kept} if kept != done else {})


def _data(given: str, digest: str) -> tuple[str, str]:
    """The name of a source of `--data` in a card, without a file's path but with a dataset's owner; and its digest."""
    return (given if _is_commit(digest) else Path(given).name, digest)


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
    return environment.get_template("card.md.jinja")


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
