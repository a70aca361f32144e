"""The harness's tasks by name and their definitions, without indexing all 14,000 files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import lm_eval.tasks
import yaml
from lm_eval.api.group import Group
from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import GROUP_FIELD_NAMES
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from scale_cli.core.errors import RequestError
from scale_cli.core.records import digest, sha256_file
from scale_cli.evaluation.quiet import quiet

TASKS = Path(lm_eval.tasks.__file__).parent
NAME = re.compile(r"^[\"']?(?:task|group)[\"']?:[ \t]*[\"']?([^\s\"'#\[]+)", re.MULTILINE)
"""A task's or group's name in a task file."""
FUNCTION = "!function"
"""The YAML tag for a function in a Python file beside the task file."""
UNUSABLE = {
    "unsafe_code": "runs code that the model writes, which scale eval does not do",
    "doc_to_image": "needs images, and these models read only text",
    "doc_to_audio": "needs audio, and these models read only text",
}
"""Keys of a task's definition that make the task unusable here, with the reason."""

Config = Mapping[str, Any]
Weighting = Literal["micro", "macro"]
"""The weights in a group's mean over its subtasks: "micro" by items, "macro" equal."""


@dataclass(frozen=True)
class Leaf:
    """The definition of a single task, alone or in a group.

    num_fewshot: None if not defined. data: path and name of its dataset, None if the task generates its own.
    metrics, filters, data, output_type: None if the task is a Python class, which does not declare them.
    """

    task: str
    version: str | None
    num_fewshot: int | None
    metrics: tuple[str, ...] | None
    filters: tuple[str, ...] | None
    data: tuple[str, str | None] | None
    output_type: str | None


@dataclass(frozen=True)
class Definition:
    """The definition of a task, or of a group with a score of its own.

    version: of the task or group. leaves: the tasks of a group, or the task itself.
    metrics: names of its metrics, None if unknown before it runs. weights: of a group, by metric; None for a task.
    """

    version: str | None
    leaves: tuple[Leaf, ...]
    metrics: tuple[str, ...] | None
    weights: Mapping[str, Weighting] | None = None


def task_manager(names: tuple[str, ...], include_path: Path | None) -> Any:
    """The task manager of `_task_manager` for the user's task files as they are now."""
    return _task_manager(names, include_path, None if include_path is None else digest(task_files(include_path)))


@cache
def _task_manager(names: tuple[str, ...], include_path: Path | None, own_files: str | None) -> Any:
    """The harness's task manager with an index of these names and their members.

    Indexing everything takes 20 seconds. Therefore only the folders that define the names are indexed first, and
    everything only if that is not enough.
    include_path: a folder with more task files, which override the harness's. own_files: their digest.
    Raises RequestError for an unknown name.
    """
    own = [] if include_path is None else [include_path]
    with quiet():
        manager = TaskManager(include_path=own, include_defaults=False)
        if _is_closed(manager, names):
            return manager
        known = manager.task_index.keys()
        folders = {task_folders()[name] for name in names if name not in known and name in task_folders()}
        # The first folder wins between two definitions in one path, the last path wins between several.
        manager = TaskManager(include_path=[*sorted(folders, reverse=True), *own], include_defaults=False)
        if _is_closed(manager, names):
            return manager
        for name in names:
            if name not in manager.task_index and not _is_mentioned(name):
                near = difflib.get_close_matches(name, {*known, *task_folders()}, n=3, cutoff=0.7)
                hint = f"did you mean {' or '.join(near)}?" if near else "list all with: lm_eval ls tasks"
                raise RequestError(f"{name}: the harness has no such task; {hint}")
        return TaskManager(include_path=own)


@cache
def task_folders() -> dict[str, Path]:
    """The top-level folder of the harness's tasks that defines each task and group."""
    folders: dict[str, Path] = {}
    for file in sorted(TASKS.glob("**/*.yaml"), key=lambda path: path.as_posix()):
        for name in NAME.findall(file.read_text(encoding="utf-8", errors="replace")):
            folders.setdefault(name, TASKS / file.relative_to(TASKS).parts[0])
    return folders


def members(manager: Any, name: str) -> list[str]:
    """The tasks, and groups with a score of their own, that a name refers to."""
    entry = manager.task_index[name]
    if entry.kind is Kind.TAG:
        return [member for tagged in sorted(entry.tags) for member in members(manager, tagged)]
    if entry.kind is Kind.GROUP and not entry.cfg.get("aggregate_metric_list"):
        names = [_name_of(member) for member in _members_of(entry)]
        if not all(isinstance(member, str) for member in _members_of(entry)):
            raise RequestError(f"{name}: it has no score of its own; name its tasks: {', '.join(map(str, names))}")
        return [member for inner in _members_of(entry) for member in members(manager, inner)]
    return [name]


def definition(manager: Any, name: str) -> Definition:
    """The definition of a task or of a group with a score of its own. RequestError if it cannot be run here."""
    entry = manager.task_index[name]
    leaves = tuple(_leaves(manager.task_index, entry, {}))
    if entry.kind is not Kind.GROUP:
        return Definition(leaves[0].version, leaves, leaves[0].metrics)
    group = Group.from_config({key: value for key, value in entry.cfg.items() if key in GROUP_FIELD_NAMES})
    aggregated = group.aggregate_metric_list or []
    weights: dict[str, Weighting] = {
        metric.metric: "micro" if metric.weight_by_size else "macro" for metric in aggregated
    }
    return Definition(version(group.version), leaves, tuple(weights), weights)


def version(value: Any) -> str | None:
    """A task's version as text, None for the harness's "N/A"."""
    return None if value in (None, "N/A") else str(value)


def task_files(folder: Path) -> dict[str, str]:
    """The sha256 of each task file and its code in the user's folder, by path."""
    files = sorted(file for pattern in ("*.yaml", "*.py") for file in folder.rglob(pattern))
    return {str(file): sha256_file(file) for file in files}


def check_functions(folder: Path) -> None:
    """Raise RequestError if a task file in the user's folder names a Python function, which the harness would run.

    Also if one that it includes does, wherever that lies, except the harness's own. Files that are not YAML are left to
    the harness.
    """
    files, seen = sorted(folder.rglob("*.yaml")), set[Path]()
    while files:
        file = files.pop(0)
        real = file.resolve()
        if real in seen or real.is_relative_to(TASKS):
            continue
        seen.add(real)
        try:
            whole = yaml.compose(file.read_bytes(), yaml.SafeLoader)
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            continue
        nodes = _nodes(whole)
        if any(node.tag == FUNCTION for node in nodes):
            raise RequestError(
                f"{file} names Python functions ({FUNCTION}), which would run; read them, then give "
                "--confirm-run-unsafe-code"
            )
        files += [file.parent / name for name in _included(nodes)]


def _nodes(whole: yaml.Node | None) -> list[yaml.Node]:
    """All nodes of a YAML document, each once, also if aliases repeat it."""
    found: dict[int, yaml.Node] = {}
    left = [whole]
    while left:
        node = left.pop()
        if node is None or id(node) in found:
            continue
        found[id(node)] = node
        if isinstance(node, yaml.MappingNode):
            left += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value
    return list(found.values())


def _included(nodes: Sequence[yaml.Node]) -> list[str]:
    """The values of `include` in the mappings of a task file, of whatever depth."""
    pairs = [pair for node in nodes if isinstance(node, yaml.MappingNode) for pair in node.value]
    values = [value for key, value in pairs if key.value == "include"]
    return [node.value for value in values for node in _nodes(value) if isinstance(node, yaml.ScalarNode)]


def own_definition(folder: Path, manager: Any) -> str:
    """The digest of the task files in the user's folder, and of the local data files that they name."""
    named = {
        text for entry in manager.task_index.values() for text in _strings((entry.cfg or {}).get("dataset_kwargs"))
    }
    data = {text: sha256_file(Path(text)) for text in sorted(named) if Path(text).is_file()}
    return digest(task_files(folder) | data)


def _strings(value: Any) -> Iterator[str]:
    """All strings inside lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)


def _is_mentioned(name: str) -> bool:
    """Whether a file of the harness's tasks contains this word, for example as a tag."""
    word = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])")
    files = (file for file in TASKS.glob("**/*yaml") if file.is_file())
    return any(word.search(file.read_text(encoding="utf-8", errors="replace")) for file in files)


def _is_closed(manager: Any, names: Iterable[str]) -> bool:
    """Whether the manager's index contains these names and all members of the groups among them."""
    index = manager.task_index
    return all(
        name in index
        and (
            index[name].kind is not Kind.GROUP
            or _is_closed(manager, filter(None, map(_name_of, _members_of(index[name]))))
        )
        for name in names
    )


def _members_of(entry: Any) -> list[Any]:
    """The members of a group as its file lists them: names, or definitions that change or create a task."""
    listed = entry.cfg.get("task") or []
    return [listed] if isinstance(listed, str) else listed


def _name_of(member: Any) -> str | None:
    """The name that a group's member refers to, None for a member that is defined in the group itself."""
    if isinstance(member, str):
        return member
    return None if isinstance(member.get("task"), list) or "dataset_path" in member else _named(member)


def _named(member: Config) -> str:
    return str(member.get("group") or member.get("task"))


def _leaves(index: Mapping[str, Any], entry: Any, overrides: Config) -> Iterator[Leaf]:
    """The tasks of an entry with the changes of its groups, resolved as the harness's own factory does."""
    if entry.kind is Kind.TAG:
        for name in sorted(entry.tags):
            yield from _leaves(index, index[name], overrides)
    elif entry.kind is Kind.GROUP:
        inherited = {key: value for key, value in entry.cfg.items() if key not in GROUP_FIELD_NAMES} | dict(overrides)
        for member in _members_of(entry):
            changes = {} if isinstance(member, str) else dict(member)
            name = member if isinstance(member, str) else _named(member)
            if name in index:
                yield from _leaves(index, index[name], inherited | {k: v for k, v in changes.items() if k != "group"})
            else:
                kind = Kind.GROUP if "group" in changes else Kind.TASK
                yield from _leaves(index, Entry(name, kind, entry.yaml_path, changes), inherited)
    else:
        yield _leaf(entry, {**entry.cfg, **overrides})


def _leaf(entry: Any, config: Config) -> Leaf:
    for key, reason in UNUSABLE.items():
        if config.get(key):
            raise RequestError(f"{entry.name} {reason}; choose another task")
    if entry.kind is Kind.PY_TASK:  # declared in the class
        task_class = load_yaml(entry.yaml_path, resolve_func=True)["class"]
        declared = (config.get("metadata") or {}).get("version", task_class.VERSION)
        return Leaf(entry.name, version(declared), config.get("num_fewshot"), None, None, None, None)
    listed = config.get("metric_list") or [{"metric": name} for name in DEFAULT_METRIC_REGISTRY[config["output_type"]]]
    return Leaf(
        task=entry.name,
        version=version((config.get("metadata") or {}).get("version", ConfigurableTask.VERSION)),
        num_fewshot=config.get("num_fewshot"),
        metrics=tuple(str(metric["metric"]).rpartition(".")[2] for metric in listed),
        filters=tuple(filter["name"] for filter in config.get("filter_list") or [{"name": "none"}]),
        data=(config["dataset_path"], config.get("dataset_name")) if config.get("dataset_path") else None,
        output_type=config["output_type"],
    )
