"""Tasks and metrics of our own in words. Those of the harness keep its names."""

from __future__ import annotations

OWN_TASKS = ("perplexity", "drift", "bios")
"""The kinds of tasks that are not the harness's."""
METRIC_WORDS = {
    "bits_per_byte": "bits per byte",
    "bits/byte": "bits per byte",  # the heading in older records
    "bits_per_character": "bits per character",
    "most_lost_nats": "most nats lost",
    "kl": "KL divergence",
    "weight_change": "change of weights",
    "expansion_norm": "norm of the expansion",
    "w12_norm": "norm of W12",
    "w21_norm": "norm of W21",
    "w22_norm": "norm of W22",
}


def is_own(task: str) -> bool:
    """Whether a task is one of ours: a text, people, or drift."""
    return task.partition(":")[0] in OWN_TASKS


def label_of(task: str, metric: str) -> str:
    """A metric of a task as the heading of a column: in words if the task is ours."""
    return metric_words(metric) if is_own(task) else metric


def metric_words(metric: str) -> str:
    """A metric of ours in words; "hard/birthday" is "hard, birthday"."""
    kind, _, part = metric.partition("/")
    return f"{METRIC_WORDS.get(metric, METRIC_WORDS.get(kind, kind))}{f', {part}' if part else ''}"


def task_words(task: str) -> str:
    """A task in words: "old text" for "perplexity:old", "drift on old text", "task0 people"."""
    kind, _, name = task.partition(":")
    words = {"perplexity": f"{name} text", "drift": f"drift on {name} text" if name else "drift", "bios": people(name)}
    return words.get(kind, task)


def people(name: str) -> str:
    """A population in words; those of `scale eval` are named by their numbers, as "0:100"."""
    return f"people {name}" if name[:1].isdigit() else f"{name} people" if name else "people"


def full_name(task: str, metric: str) -> str:
    """A metric of a task in words."""
    if task == "drift":
        return metric_words(metric)
    if task.startswith("drift:"):
        return f"{metric_words(metric)} on {task.partition(':')[2]} text"
    return f"{task_words(task)} {metric_words(metric)}" if is_own(task) else f"{task} {metric}"
