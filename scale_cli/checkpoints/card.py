"""The model card of everything that is written: what it is, from what and how it was made, how to load and cite it.

A card is made from the JSON files that lie beside the weights (`upscale.json`, `record.json`, `trained.json`,
`export.json`), so it says what they say and nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scale_cli.core.files import write_text

CARD = "README.md"
UPSCALE, RECORD, POINTER, EXPORT = "upscale.json", "record.json", "trained.json", "export.json"
"""The files that say how a folder was made; a run's pointer says it where its record does not (yet)."""
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""The files of a base that its licence wants passed on with every copy and derivative."""
LICENCE_FIELDS = ("license", "license_name", "license_link")

Form = Literal["width", "depth", "plain"]
_OPTIONS = {
    "lora": ("lora_r", "lora_alpha"),
    "freeze": ("freeze_layers",),
    "scale-adapt": ("preserve_layers", "adapt_modules"),
    "scale-route": ("preserve_layers", "adapt_modules", "threshold"),
}
"""The method options that a method reads, by method."""
_UPSCALE = ("by", "sizes", "initialisation", "new_layers", "seed", "parameters", "proof")
_RUN = ("tokens", "seconds", "trained_parameters", "total_parameters", "metrics")
"""What a card shows of upscale.json and of a run's record."""
_RECIPE = ("objective", "steps", "batch_size", "gradient_accumulation_steps", "seq_length", "lr", "schedule", "seed")
"""What it shows of a training recipe besides method and options, in its order."""


@dataclass(frozen=True)
class Origin:
    """What a card inherits from the folder that its own was made from.

    folder: that folder; its licence files are passed on.
    base_model: the hub id at the beginning of it all, None where no hub id is known.
    licence: the licence fields of its own card's front matter; empty where it has none.
    """

    folder: Path
    base_model: str | None
    licence: dict[str, str]


def origin(folder: Path, *, hub_id: str | None = None) -> Origin:
    """What a card inherits from `folder`, the local copy of `hub_id` where it is one."""
    front = _front_matter(folder / CARD)
    licence = {name: str(front[name]) for name in LICENCE_FIELDS if isinstance(front.get(name), str)}
    base_model = hub_id
    if hub_id is None and any((folder / name).is_file() for name in (UPSCALE, RECORD, POINTER, EXPORT)):
        stated = front.get("base_model")  # written by us: in a card of others it is what *their* model came from
        base_model = stated if isinstance(stated, str) else None
    return Origin(folder, base_model, licence)


def history(folder: Path) -> list[dict[str, Any]]:
    """What the files of a folder say of how it was made, the oldest step first: upscaling, training.

    Each is what a card says of the step, under "step" its kind; folders by their names alone, as where they lay is
    nobody's business.
    """
    if (folder / EXPORT).is_file():
        return list(_read(folder / EXPORT)["history"])
    steps = []
    if (folder / UPSCALE).is_file():
        record = _read(folder / UPSCALE)
        base = record["base"]
        of_base = {
            "base": base["id"] if "id" in base else Path(base["path"]).name,
            "revision": base.get("revision"),
            "weights_sha256": base["weights_sha256"],
        }
        steps.append({"step": "upscale"} | of_base | {name: record[name] for name in _UPSCALE if name in record})
    record = _read(folder / RECORD) if (folder / RECORD).is_file() else {}
    if record.get("command") == "train":
        source = record["base"]["source"]
        is_hub_id = record["base"]["fingerprint"] is None and source.count("/") == 1 and source[0] not in "./~"
        named = {
            "from": source if is_hub_id else Path(source).name,
            "data": [(Path(path).name, digest) for path, digest in record["data"].items()],
            "recipe": _shown(record["recipe"]),
        }
        steps.append({"step": "train"} | named | {name: record[name] for name in _RUN})
    elif (folder / POINTER).is_file():
        pointer = _read(folder / POINTER)
        recipe = pointer["options"] | {"method": pointer["method"], "from_scratch": pointer["from_scratch"]}
        steps.append({"step": "train", "recipe": _shown(recipe)})
    return steps


def _shown(recipe: dict[str, Any]) -> dict[str, Any]:
    """Of a recipe what a card shows, in its order."""
    shown = ("method", "from_scratch", *_OPTIONS.get(recipe["method"], ()), *_RECIPE)
    given = {name: recipe.get(name) for name in shown}
    return {name: value for name, value in given.items() if value is not None and value is not False}


def write_card(
    folder: Path, *, name: str, form: Form, source: Origin, steps: Sequence[dict[str, Any]], whole: bool = True
) -> None:
    """Write README.md into `folder` over any that is there, and beside it the licence files of `source`.

    name: what to call the model: its folder or hub id.
    form: upscaled by width, by depth, or a plain Hugging Face model.
    steps: how it was made, the oldest first, as `history` gives it, and at the end perhaps {"step": "base"} for a base
        that was taken back.
    whole: the folder loads by itself; False for a run that trained a part.
    """
    for pattern in LICENCES:
        for file in source.folder.glob(pattern):
            if file.is_file() and file.resolve() != (folder / file.name).resolve():
                shutil.copyfile(file, folder / file.name)
    write_text(folder / CARD, card_text(name=name, form=form, source=source, steps=steps, whole=whole))


def card_text(*, name: str, form: Form, source: Origin, steps: Sequence[dict[str, Any]], whole: bool = True) -> str:
    """The text of a card: YAML front matter and Markdown. The arguments are those of `write_card`."""
    recipes = [step["recipe"] for step in steps if step["step"] == "train"]
    methods = [recipe["method"] for recipe in recipes]
    if from_scratch := any(recipe.get("from_scratch") for recipe in recipes):
        source = replace(source, base_model=None, licence={})  # only its config was taken
    parts = [
        f"---\n{_front(form, source, methods, steps, whole=whole)}\n---\n",
        f"# {name}\n",
        f"{_summary(form, source, methods, steps)}\n",
        *(_SECTIONS[step["step"]](step) for step in steps),
        _use(name, form, whole=whole),
    ]
    if form == "width":
        parts.append(_LIMITS.format(name=name))
    if not from_scratch:
        parts.append(_licence(source))
    parts.append(_citation(form))
    return "\n".join(parts)


def _front(form: Form, source: Origin, methods: Sequence[str], steps: Sequence[dict[str, Any]], *, whole: bool) -> str:
    from huggingface_hub import ModelCardData

    taken_back = any(step["step"] == "base" for step in steps)
    upscaled = {"width": "width-upscaled", "depth": "depth-upscaled"}.get(form)
    tags = ["scale", *([upscaled] if upscaled else []), *methods]
    data = ModelCardData(
        base_model=None if taken_back else source.base_model,  # it is that model, and not made from it
        library_name="transformers" if whole else None,
        pipeline_tag="text-generation",
        tags=tags,
        **source.licence,  # type: ignore[arg-type]
    )
    return str(data.to_yaml())


def _summary(form: Form, source: Origin, methods: Sequence[str], steps: Sequence[dict[str, Any]]) -> str:
    trained = f", trained by {', then '.join(methods)}" if methods else ""
    for step in steps:
        if step["step"] == "base":
            return f"The base of `{step['from']}`, taken back: its tensors, config and tokenizer as they were."
        if step["step"] == "upscale":
            if form == "width":
                return (
                    f"`{step['base']}` widened by SCALE (arXiv 2511.03270){trained}. Its own tensors are frozen; what "
                    "was added stands beside them."
                )
            return f"`{step['base']}` deepened by block expansion (LLaMA Pro, arXiv 2401.02415){trained}."
    return f"`{source.base_model}`{trained}." if source.base_model else f"A causal language model{trained}."


def _upscale_section(step: dict[str, Any]) -> str:
    rows = [("base", f"`{step['base']}`" + (f" at `{step['revision']}`" if step["revision"] else ""))]
    sums = [f"`{file}` `{digest}`" for file, digest in step["weights_sha256"].items()]
    rows.append(("sha256 of its weights", "<br>".join(sums)))
    added = "added " if step["by"] == "width" else ""
    rows += [(f"{added}{size}", f"{value:,}") for size, value in step["sizes"].items()]
    if "initialisation" in step:
        words = [f"{name.upper()} {word}" for name, word in step["initialisation"].items()]
        rows.append(("initial values", ", ".join(words)))
    if "new_layers" in step:
        rows.append(("new layers, counted from 0", ", ".join(map(str, step["new_layers"]))))
    rows.append(("seed", str(step["seed"])))
    parameters, proof = step["parameters"], step["proof"]
    share = parameters["added"] / parameters["base"]
    rows.append(("parameters", f"{parameters['base']:,} of the base, {parameters['added']:,} added ({share:.1%})"))
    if proof is None:
        rows.append(("max \\|delta logit\\|", "not measured"))
    else:
        shape = " x ".join(map(str, proof["probe_shape"]))
        rows.append(
            (
                "max \\|delta logit\\|",
                f"{proof['max_delta_logit']:.3g} on {shape} random tokens in {proof['dtype']} (rounding explains "
                f"{proof['tolerance']:.3g})",
            )
        )
    title = "Widened" if step["by"] == "width" else "Deepened"
    return f"## {title}\n\n{_table(rows)}"


def _train_section(step: dict[str, Any]) -> str:
    recipe = step["recipe"]
    rows = []
    if "from" in step:
        rows.append(("from", f"`{step['from']}`"))
        data = [f"`{name}` (sha256 `{digest}`)" for name, digest in step["data"]]
        rows.append(("data", "<br>".join(data)))
    rows += [(name.replace("_", " "), _value(value)) for name, value in recipe.items() if name != "method"]
    if "tokens" in step:
        trained, total = step["trained_parameters"], step["total_parameters"]
        rows.append(("trained parameters", f"{trained:,} of {total:,} ({trained / total:.1%})"))
        rows.append(("tokens", f"{step['tokens']:,} in {step['seconds']:,.1f} seconds"))
    else:
        rows.append(("state", "a checkpoint of a run that is not finished"))
    text = f"## Trained by {recipe['method']}\n\n{_table(rows)}"
    metrics = [metric for metric in step.get("metrics", ()) if metric["name"].count("/") <= 1]
    if metrics:
        text += (
            "\nMeasured at its end:\n\n| metric | value | standard error | samples |\n| --- | ---: | ---: | ---: |\n"
        )
        for metric in metrics:
            error = "-" if metric["stderr"] is None else f"{metric['stderr']:.4g}"
            text += f"| {metric['name']} | {metric['value']:.4g} | {error} | {metric['samples']:,} |\n"
    return text


def _base_section(step: dict[str, Any]) -> str:
    sums = step["weights_sha256"]
    if not sums:
        return ""
    rows = [(f"`{file}`", verdict) for file, verdict in sums.items()]
    return f"## Its files against those it was upscaled from\n\n{_table(rows)}"


_SECTIONS = {"upscale": _upscale_section, "train": _train_section, "base": _base_section}


def _use(name: str, form: Form, *, whole: bool) -> str:
    if not whole:
        return (
            "## Use\n\nThis folder holds what was trained and a pointer to the checkpoint it was trained from. A whole "
            f"Hugging Face folder, which loads anywhere:\n\n    scale export {name} FOLDER\n\n"
            "or, where the package `scale-cli` is installed:\n\n```python\n"
            "from scale_cli.checkpoints.load import describe, load_model\n\n"
            f'model = load_model(describe("{name}"))\n```\n'
        )
    trust = ", trust_remote_code=True" if form == "width" else ""
    distrust = ", trust_remote_code=False" if form == "width" else ""
    text = (
        "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{name}"{trust})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{name}"{distrust})\n```\n'
    )
    if form == "width":
        text += (
            "\n`trust_remote_code=True` runs the model code that lies beside the weights (`modeling_scale.py`), or the "
            "installed `scale-cli`'s, if there is one. The tokenizer is the base's and needs no code; "
            "`trust_remote_code=False` keeps the library from asking.\n"
        )
    return text


_LIMITS = (
    "## What it cannot be\n\n"
    "- A plain `LlamaForCausalLM`, or any other class with one hidden state, and so no GGUF, whose runtimes know only "
    "such classes. The original features and the added ones are normalised apart, each half by its own mean square, so "
    "that the original half cannot notice the other. One norm over all features divides both halves by one common "
    "number, which differs from token to token; no choice of weights makes one of the other.\n"
    "- Served by the transformers backend of vLLM or SGLang: it builds a model without its head, multiplies one hidden "
    "state by one matrix instead, and keeps for each layer one key/value cache for the heads that the config counts. "
    "Here the logits are the sum of two heads on two hidden states, and the added heads have keys and values too.\n\n"
    "All of these take the base, which `scale export {name} FOLDER --base` gives back bit for bit.\n"
)


def _licence(source: Origin) -> str:
    files = sorted({file.name for pattern in LICENCES for file in source.folder.glob(pattern) if file.is_file()})
    known = source.licence.get("license_name") or source.licence.get("license")
    stated = f"That of the base: `{known}`." if known else "The base's licence applies; its folder names none."
    beside = f" See {', '.join(f'[{name}]({name})' for name in files)}." if files else ""
    return f"## Licence\n\n{stated}{beside}\n"


_SCALE_BIBTEX = """@inproceedings{lee-etal-2026-scale,
  title     = {{SCALE}: Upscaled Continual Learning of Large Language Models},
  author    = {Lee, Jin-woo and Choi, Junhwa and Hwang, Bongkyu and Choo, Jinho and Kim, Bogun and Yi, JeongSeon and
               Lee, Joonseok and Jung, DongYoung and Park, Jaeseon and Park, Kyoungwon and Jung, Suk-hoon},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2026},
  year      = {2026},
  note      = {arXiv 2511.03270}
}"""
_LLAMA_PRO_BIBTEX = """@misc{wu2024llamapro,
  title  = {{LLaMA Pro}: Progressive {LLaMA} with Block Expansion},
  author = {Wu, Chengyue and Gan, Yukang and Ge, Yixiao and Lu, Zeyu and Wang, Jiahao and Feng, Ye and Shan, Ying and
            Luo, Ping},
  year   = {2024},
  note   = {arXiv 2401.02415}
}"""


def _citation(form: Form) -> str:
    entries = [_SCALE_BIBTEX, *([_LLAMA_PRO_BIBTEX] if form == "depth" else [])]
    return "## Citation\n\nPlease cite the base model as well.\n\n```bibtex\n" + "\n".join(entries) + "\n```\n"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "| | |\n| --- | --- |\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _front_matter(file: Path) -> dict[str, Any]:
    """The front matter of a card, empty where there is no card or none that can be read: others wrote it."""
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    if not file.is_file():
        return {}
    try:
        return metadata_load(file) or {}
    except (OSError, ValueError, YAMLError):
        return {}


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
