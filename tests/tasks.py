"""Tiny tasks for the harness, of every kind that it has, as files of their own: a few items each."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ITEMS = {"tiny_choice": 11, "tiny_letters": 5}
"""Items of the multiple-choice tasks."""
USE = {"train": "training_split", "test": "test_split"}
SUITE: dict[str, Any] = {
    "name": "tiny",
    "language": "en",
    "role": "stability",
    "title": "Tiny",
    "num_fewshot": 0,
    "tasks": [
        {"task": "tiny_choice", "metric": "acc_norm", "label": "Choice"},
        {"task": "tiny_words", "metric": "exact_match", "filter": "first", "num_fewshot": 2, "label": "Words"},
        {"task": "tiny_group", "metric": "acc", "aggregation": "macro", "label": "Group"},
    ],
    "include_path": "tasks",
}


@dataclass(frozen=True)
class Tasks:
    """folder: holds suite.yaml, tasks/ and data/."""

    folder: Path

    @property
    def suite(self) -> Path:
        return self.folder / "suite.yaml"

    @property
    def cache(self) -> Path:
        return self.folder.parent / "cache"

    @property
    def include_path(self) -> Path:
        return self.folder / "tasks"

    @property
    def patches(self) -> dict[str, Path]:
        """Values by dotted name with which the library caches the data sets beside them, apart from the user's."""
        return {"datasets.config.HF_DATASETS_CACHE": self.cache}

    def items(self, name: str) -> list[dict[str, Any]]:
        """The items of a data file."""
        lines = (self.folder / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def make_tasks(folder: Path) -> Tasks:
    """Write the tasks into an empty folder."""
    draw = random.Random(0)
    words = ["red", "green", "blue", "york", "boston", "rome", "1990", "june", "monday", "music", "sings", "works"]

    def phrase(least: int, most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(least, most)))

    choices = [
        {"question": phrase(3, 9), "options": [phrase(1, 4) for _ in range(3)], "label": draw.randrange(3)}
        for _ in range(ITEMS["tiny_choice"])
    ]
    letters = [{"question": phrase(2, 5), "label": draw.randrange(4)} for _ in range(ITEMS["tiny_letters"])]
    data: dict[str, list[dict[str, Any]]] = {
        "choice": choices,
        "train": [{"question": phrase(3, 6), "options": ["red", "blue", "june"], "label": i % 3} for i in range(8)],
        "letters": letters,
        "words": [{"question": phrase(2, 6), "answer": phrase(1, 1)} for _ in range(4)],
        "text": [{"text": phrase(20, 40)} for _ in range(3)],
    }
    (folder / "data").mkdir(parents=True)
    for name, rows in data.items():
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def files(**splits: str) -> dict[str, Any]:
        there = {split: str(folder / "data" / f"{name}.jsonl") for split, name in splits.items()}
        uses = {USE[split]: split for split in there}
        return {"dataset_path": "json", "dataset_kwargs": {"data_files": there}, **uses}

    def mean_of(*metrics: str) -> list[dict[str, Any]]:
        return [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics]

    definitions: dict[str, dict[str, Any]] = {
        "tiny_choice": {
            **files(train="train", test="choice"),
            "output_type": "multiple_choice",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_choice": "{{options}}",
            "doc_to_target": "label",
            "metric_list": mean_of("acc", "acc_norm"),
            "metadata": {"version": 1.5},
            "tag": ["tiny_tag"],
        },
        "tiny_letters": {  # answers of one token after the same prompt: the harness asks the model once
            **files(test="letters"),
            "output_type": "multiple_choice",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_choice": ["A", "B", "C", "D"],
            "doc_to_target": "label",
            "num_fewshot": 0,
            "metadata": {"version": 1},
            "tag": ["tiny_tag"],
        },
        "tiny_words": {
            **files(train="words", test="words"),
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["Q:"], "max_gen_toks": 5, "do_sample": False},
            "metric_list": mean_of("exact_match"),
            "num_fewshot": 1,
            "filter_list": [
                {"name": "first", "filter": [{"function": "take_first"}]},
                {
                    "name": "word",
                    "filter": [{"function": "regex", "regex_pattern": "(\\w+)"}, {"function": "take_first"}],
                },
            ],
            "metadata": {"version": 2.0},
        },
        "tiny_text": {
            **files(test="text"),
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
        },
        "tiny_group": {
            "group": "tiny_group",
            "task": ["tiny_choice", "tiny_letters"],
            "aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}],
            "metadata": {"version": 3},
        },
        "tiny_micro": {
            "group": "tiny_micro",
            "task": [{"task": "tiny_choice", "num_fewshot": 0}, "tiny_letters"],
            "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}, {"metric": "acc_norm"}],
        },
        "tiny_loose": {"group": "tiny_loose", "task": ["tiny_words", "tiny_micro"]},
        "tiny_unsafe": {**files(test="text"), "output_type": "generate_until", "unsafe_code": True},
        "tiny_elsewhere": {"include": "tiny_text.yaml", "dataset_path": "org/elsewhere", "dataset_name": "part"},
        "tiny_broken": {**files(test="text"), "output_type": "generate_until", "tset_split": "test"},
        "tiny_gone": {
            "include": "tiny_text.yaml",
            "dataset_kwargs": {"data_files": {"test": str(folder / "data" / "gone.jsonl")}},
        },
    }
    (folder / "tasks").mkdir()
    for name, definition in definitions.items():
        named = {} if "group" in definition else {"task": name}
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(definition | named, sort_keys=False))
    (folder / "suite.yaml").write_text(yaml.safe_dump(SUITE, sort_keys=False))
    return Tasks(folder)
