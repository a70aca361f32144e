"""What is reproduced: `python -m benchmarks.reproduction` writes benchmarks/REPRODUCTION.md from the records alone.

What the paper prints and claims is data (`paper-table1.json`, `paper-figures.json`); what we measured are the other
records. A number is compared with the paper's only where it was measured at the paper's own size; at
another size it is the claim, an order of rows, that is tested, and the rule below says when it holds. With --check
nothing is written, and the exit code is 1 where the file is not what the records give.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from scale_cli.bench.ablations import FIGURES as PAPER_FIGURES
from scale_cli.core.errors import RequestError
from scale_cli.core.files import write_text
from scale_cli.core.records import read_record
from scale_cli.evaluation.suites import Suite, find_suite
from scale_cli.methods import METHODS
from scale_cli.reporting.statistics import difference_error, mean_and_deviation, mean_error, proportion_error

RECORDS = Path(__file__).parent / "records"
OUT = Path(__file__).parent / "REPRODUCTION.md"
TABLE, FIGURES = "paper-table1.json", "paper-figures.json"
"""What the paper prints, a record like others, and what its figures say, which `scale bench ablations` shows too."""
PAPER = "paper"
"""The preset whose numbers are compared with the paper's."""
BASE = "base"
ALL = "*"
SIGNIFICANT = 0.05
LINEAR = 0.9
QUESTIONS = 6
"""Of a person in the biographies."""
EARLY = 4_000 / 62_500
"""The share of Task 1 through which the paper's SCALE-Route holds Task 0."""

Status = Literal["verified", "differs", "undecided", "not run"]
STATUSES: tuple[Status, ...] = ("verified", "differs", "undecided", "not run")

RULE = """\
- **verified**: every comparison that the claim consists of has the claimed sign, and the 95% confidence interval of the
  difference leaves out zero.
- **differs**: some comparison has the other sign, and its interval leaves out zero.
- **undecided**: measured, and neither.
- **not run**: no record has it yet; the command makes one.

The interval is Student's, of the differences between two rows on the same seed, where a record has several seeds. Of
a single seed it is normal, from the standard errors of the measured items alone: how another seed would have come out
is not in it. Of texts these are the errors of each row's change against the base, paired by document, and taken as
independent, which overstates them where two rows find the same documents easier; of other items the pairing is not
made use of. A claim that something is exact
holds only if it is exact in every row; that two things are near-linear, if their correlation is at least 0.9. A claim
is tested at the size that its record has, so a verified claim is the paper's order seen again there, never the
paper's number. A number is compared with the paper's only in a record of a `paper` preset: verified if it is as near
as two standard errors and the precision to which a figure can be read."""
"""With `SIGNIFICANT` and `LINEAR` as numbers."""

NAMES = {BASE: "base"} | {name: method.title for name, method in METHODS.items()}

OPEN_POINTS = (
    (
        "Norms of the widened hidden state",
        "Each half is normalised apart, by a norm of the base's own kind: one over both would change the base's half.",
        "fidelity",
    ),
    (
        "Start of the added embedding columns and of the added head",
        "The embedding's leading singular directions (another `--init`: random with its standard deviation); the head "
        "starts at zero, which keeps the first logits exact.",
        "fidelity",
    ),
    (
        "Where W12 trains in the main runs",
        "Attention only, unless `--adapt-modules attention,ffn`; the experiment compares both.",
        "ablations-where",
    ),
    (
        "Optimiser and weight decay of the Korean runs",
        "AdamW, weight decay 0.01 of all but norms and biases, gradients clipped to norm 1, unless the recipe says "
        "otherwise; the resolved recipe is in every record.",
        "korean",
    ),
    (
        "Seeds",
        "A repetition each, named in every record; a table of several seeds has mean and standard deviation.",
        "korean",
    ),
    (
        "SCALE-Route's loss and its threshold",
        "The decision is 0 or 1 and has no gradient, so `(1 - r) L(Z_P) + r L(Z_A)` is the loss of the logits that eq. "
        "5 chooses. The threshold is an option; the paper fixes 0.5, the experiment varies it.",
        "ablations-threshold",
    ),
    (
        "Biographies of the methods that the paper leaves out",
        "LoRA, Freeze, SCALE-Preserve and SCALE-Adapt run beside the others, each at its own rate of one small sweep.",
        "bios",
    ),
)
"""What the paper leaves open, our answer, and the experiment whose records rest on it."""
OTHERS = {
    "ablations-where": "scale bench ablations where",
    "ablations-threshold": "scale bench ablations threshold",
}
"""Experiments that the paper has no figure of, by name; the words that a record's command holds."""


@dataclass(frozen=True)
class Row:
    """What a record says of one row of its table on one seed.

    arm: the row's label. seed: None where there are no seeds, as of a base: it is compared with every seed.
    values: by field; errors: standard errors from the measured items, None where none is known; paired: those of the
        change against the base, by the items that both were measured on.
    """

    arm: str
    seed: int | None
    values: Mapping[str, float]
    errors: Mapping[str, float | None] = field(default_factory=dict)
    paired: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """status: what became of a claim in a record. why: the comparisons behind it, in words."""

    status: Status
    why: str


@dataclass(frozen=True)
class Comparison:
    """Two rows in one field, or a row and a number.

    text: what was compared, with the means. difference: the upper one minus the lower one, as claimed.
    p_value: two-sided, of no difference; None where no error is known.
    """

    text: str
    difference: float
    p_value: float | None

    @property
    def status(self) -> Status:
        if self.p_value is None or self.p_value >= SIGNIFICANT:
            return "undecided"
        return "verified" if self.difference > 0 else "differs"


# Reading records


def load_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records in a folder by file name, in alphabetical order, and the paper's figures.

    Raises RequestError for a file that is no record, and if the paper's table is missing.
    """
    try:
        records = {file.name: read_record(file) for file in (PAPER_FIGURES, *sorted(folder.glob("*.json")))}
    except ValueError as error:
        raise RequestError(f"--records {folder}: {error}; leave only records there") from error
    if TABLE not in records:
        raise RequestError(f"--records {folder} lacks {TABLE}; name a folder with the paper's records")
    return records


def records_of(words: str, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Those whose command holds these words, by file name; how it was launched may stand before them."""
    return {name: record for name, record in records.items() if f" {words} " in f" {record['command']} "}


def read_rows(record: Mapping[str, Any]) -> list[Row]:
    """The rows of a record: of a benchmark, of evaluations, or of the checks on upscaled models.

    Numbers in a row's mappings have fields like `perplexity/english`, and measurements of an evaluation
    `task/metric`. A row's field `X_stderr` holds the standard error of `X`.
    """
    results = record.get("results", ())
    rows = []
    for index, row in enumerate(record.get("rows") or ({} for _ in results)):
        values = dict(_flat(row))
        errors: dict[str, float | None] = {name: values.get(_error_field(name)) for name in values}
        _add_biographies(record, row, values, errors)
        _add_perplexity_errors(values, errors)
        checkpoint: Mapping[str, Any] = {}
        if results:
            checkpoint = results[index]["checkpoint"]
            for measured in results[index]["measurements"]:
                name = f"{measured['task']}/{measured['metric']}"
                values[name], errors[name] = measured["value"], measured["stderr"]
        _add_averages(values, errors)
        seed = row.get("seed", (checkpoint.get("options") or {}).get("seed"))
        rows.append(Row(_arm(row, checkpoint), seed, values, errors, _paired_errors(values)))
    return rows


def _arm(row: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> str:
    if "by" in row:  # of fidelity, which has a row a text
        return f"{row['by']}, {row['text']}"
    return row.get("label") or row.get("model") or checkpoint.get("method") or BASE


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "seed":
            yield prefix + name, float(value)


def _error_field(name: str) -> str:
    first, slash, rest = name.partition("/")
    return f"{first}_stderr{slash}{rest}"


def _add_biographies(
    record: Mapping[str, Any], row: Mapping[str, Any], values: dict[str, float], errors: dict[str, float | None]
) -> None:
    """Accuracy early in Task 1, from the curves, and the errors of accuracies, from the number of questions."""
    recipe = record.get("recipe") or {}
    if "task0" not in values or "pretrain_people" not in recipe:
        return
    runs = record.get("curves", {}).get(row["label"], {})
    if curve := runs.get(str(row["seed"])):
        values["task0_early"] = next(task0 for step, task0, _ in curve if step >= EARLY * curve[-1][0])
    people = {"task0": recipe["pretrain_people"] - recipe["pretrain_people"] // 2, "task1": recipe["task1_people"]}
    for name in values:
        for task, count in people.items():
            if name in (task, f"{task}_early", f"{task}_before", f"exact_{task}"):
                asked = QUESTIONS * min(count, recipe.get("eval_people") or count)
                errors[name] = proportion_error(values[name], asked)


def _add_perplexity_errors(values: Mapping[str, float], errors: dict[str, float | None]) -> None:
    """Standard errors of perplexities, from those of the bits per byte: a perplexity's logarithm is in proportion."""
    for name, value in values.items():
        text = name.removeprefix("perplexity/")
        bits, error = values.get(f"bits/{text}"), errors.get(f"bits/{text}")
        if text != name and bits and error is not None:
            errors[name] = value * math.log(value) * error / bits


def _paired_errors(values: Mapping[str, float]) -> dict[str, float]:
    """Of perplexities, from the errors of the changes of bits per byte; the base's own change is none."""
    found = {}
    for name, value in values.items():
        text = name.removeprefix("perplexity/")
        bits, error = values.get(f"bits/{text}"), values.get(f"change_stderr/{text}")
        if text != name and bits and error is not None:
            found[name] = value * math.log(value) * error / bits
    return found


def _add_averages(values: dict[str, float], errors: dict[str, float | None]) -> None:
    """The averages of Table 1's suites, or of the record's own suite of the language where it has other tasks."""
    for suite in _suites():
        columns = [f"{entry.task}/{entry.metric}" for entry in suite.entries]
        own = [name for name in values if name.startswith(f"suites/{suite.title}")]
        if all(column in values for column in columns):
            values[_average(suite)] = fmean(values[column] for column in columns)
            errors[_average(suite)] = mean_error([errors[column] for column in columns])
        elif own:
            values[_average(suite)], errors[_average(suite)] = values[own[0]], errors[own[0]]


def _average(suite: Suite) -> str:
    return f"average/{suite.name}"


@functools.cache
def _suites() -> tuple[Suite, ...]:
    """Those of Table 1."""
    return find_suite("english"), find_suite("korean")


# Testing claims


def judge(claim: Mapping[str, Any], rows: Sequence[Row]) -> Verdict:
    """What becomes of a claim in the rows of a record. `not run` where they lack a row or a field that it speaks of."""
    named = [arm for arm in _arms(claim) if isinstance(arm, str) and arm != ALL]
    concerned = [row for row in rows if not named or row.arm in named]
    present = {row.arm for row in concerned}
    if missing := [arm for arm in dict.fromkeys(named) if arm not in present]:
        return Verdict("not run", f"the record has no row {', '.join(map(_name, missing))}")
    fields = [claim["field"], *([claim["linear_in"]] if "linear_in" in claim else [])]
    if missing := [name for name in fields if any(name not in row.values for row in concerned)]:
        return Verdict("not run", f"the record has no {' and no '.join(missing)}")
    if "exactly" in claim:
        return _judge_exact(claim, concerned)
    if "linear_in" in claim:
        return _judge_linear(claim, concerned)
    return _verdict(list(comparisons(claim["field"], claim["rising"], concerned)))


def _arms(claim: Mapping[str, Any]) -> list[str | float]:
    if "exactly" in claim:
        return list(claim["exactly"])
    return [arm for group in claim.get("rising", [claim.get("among", ())]) for arm in group]


def _judge_exact(claim: Mapping[str, Any], rows: Sequence[Row]) -> Verdict:
    wrong = [
        f"{_name(row.arm)} {row.values[claim['field']]:.3g}"
        for row in rows
        if row.values[claim["field"]] != claim["exactly"].get(row.arm, claim["exactly"].get(ALL))
    ]
    if wrong:
        return Verdict("differs", f"not exact: {', '.join(wrong)}")
    return Verdict("verified", f"in all {len(rows)} rows" if len(rows) > 1 else "in the row")


def _judge_linear(claim: Mapping[str, Any], rows: Sequence[Row]) -> Verdict:
    from scipy import stats

    if len(rows) < 3:
        return Verdict("undecided", f"{len(rows)} rows are too few for a line")
    x, y = ([row.values[name] for row in rows] for name in (claim["linear_in"], claim["field"]))
    found = float(stats.pearsonr(x, y).statistic)
    return Verdict("verified" if found >= LINEAR else "differs", f"correlation {found:.3f} over {len(rows)} rows")


def comparisons(name: str, groups: Sequence[Sequence[str | float]], rows: Sequence[Row]) -> Iterator[Comparison]:
    """Every row of a group with every row of the next, whose value is claimed to be higher."""
    for lower_group, upper_group in itertools.pairwise(groups):
        for lower in lower_group:
            for upper in upper_group:
                yield compare(name, _side(lower, name, rows), _side(upper, name, rows))


def _side(arm: str | float, name: str, rows: Sequence[Row]) -> list[Row]:
    if isinstance(arm, str):
        return [row for row in rows if row.arm == arm]
    return [Row(_short(arm), None, {name: float(arm)}, {name: 0.0})]  # a number of the claim, known exactly


def compare(name: str, lower: Sequence[Row], upper: Sequence[Row]) -> Comparison:
    """One side of a comparison with the other, on their common seeds, or on all where one has none."""
    if None in {row.seed for row in (*lower, *upper)}:
        pairs = [(low, high) for low in lower for high in upper]
    else:
        pairs = [(low, high) for low in lower for high in upper if low.seed == high.seed]
    assert pairs, f"{lower[0].arm} and {upper[0].arm} have no seed in common"
    values = [(low.values[name], high.values[name]) for low, high in pairs]
    mean, deviation = mean_and_deviation([high - low for low, high in values])
    if deviation is not None:
        p_value: float | None = _student(mean, deviation / math.sqrt(len(pairs)), len(pairs) - 1)
    else:
        ((low, high),) = pairs
        errors = [row.paired.get(name, 0.0 if row.arm == BASE else None) for row in (low, high)]
        if None in errors or not any(name in row.paired for row in (low, high)):
            errors = [row.errors.get(name) for row in (low, high)]
        p_value = _normal(mean, difference_error(*errors))
    sign = "below" if mean > 0 else "not below"
    words = [
        " ".join(dict.fromkeys([_name(rows[0].arm), _short(fmean(side))]))  # a number is its own name
        for rows, side in zip((lower, upper), zip(*values, strict=True), strict=True)
    ]
    return Comparison(f"{words[0]} {sign} {words[1]}", mean, p_value)


def _student(mean: float, error: float, freedom: int) -> float:
    from scipy import stats

    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * float(stats.t.sf(abs(mean / error), freedom))


def _normal(mean: float, error: float | None) -> float | None:
    if error is None:
        return None
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return math.erfc(abs(mean / error) / math.sqrt(2))


def _verdict(found: Sequence[Comparison]) -> Verdict:
    """The claim holds where all its comparisons do, and differs where one does."""
    by_status = {status: [one.text for one in found if one.status == status] for status in STATUSES}
    if by_status["differs"]:
        return Verdict("differs", "; ".join(by_status["differs"]))
    if by_status["undecided"]:
        unknown = [one for one in found if one.p_value is None]
        reason = "no error is known" if unknown else "inside the error"
        return Verdict("undecided", f"{reason}: {'; '.join(by_status['undecided'])}")
    shown = "; ".join(by_status["verified"])
    return Verdict("verified", shown if len(found) < 4 else f"all {len(found)} comparisons")


# Writing


def render(records: Mapping[str, Mapping[str, Any]]) -> str:
    """REPRODUCTION.md, from records by file name."""
    paper = records[FIGURES]
    experiments = paper["experiments"]
    judged = {
        figure["name"]: [
            (claim, *verdict)
            for claim in figure["claims"]
            for verdict in _verdicts(claim, experiments[figure["experiment"]], records)
        ]
        for figure in paper["figures"]
    }
    parts = [
        "# What is reproduced",
        "Generated by `python -m benchmarks.reproduction` from [the records](records) alone; a test keeps it so. The "
        "paper is SCALE, arXiv 2511.03270. Its numbers are those of [its Table 1](records/paper-table1.json) and those "
        "[read off its figures](../scale_cli/bench/paper-figures.json), where its claims stand too, in our words.",
        "## When a claim counts as verified",
        RULE,
        "## Overview",
        _overview(paper["figures"], judged),
    ]
    for name, experiment in experiments.items():
        parts += ["## " + experiment["title"], _header(experiment, records)]
        for figure in paper["figures"]:
            if figure["experiment"] == name:
                parts += [f"### {figure['name']}", figure["about"]]
                if figure["name"] == "Table 1":
                    parts += [_table1(records, experiment)]
                elif figure["columns"]:
                    parts += [_values(figure, experiment, records)]
                parts += [_claims(judged[figure["name"]])]
                if figure["name"] == "Table 1":
                    rows = read_rows(records[TABLE])
                    parts += [
                        "The same claims put to the paper's own numbers, with the standard errors of their items:",
                        _claims((claim, TABLE, judge(claim, rows)) for claim in figure["claims"]),
                    ]
    parts += ["## Open points of the paper", _open_points(experiments, records)]
    return "\n\n".join(parts) + "\n"


def _verdicts(
    claim: Mapping[str, Any], experiment: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str | None, Verdict]]:
    """The verdict on a claim in each record of its experiment; without any, that it was not run."""
    found = records_of(experiment["records"], records)
    if not found:
        return [(None, Verdict("not run", f"`{experiment['command']}`"))]
    return [(name, judge(claim, read_rows(record))) for name, record in found.items()]


def _overview(
    figures: Sequence[Mapping[str, Any]], judged: Mapping[str, Sequence[tuple[Any, str | None, Verdict]]]
) -> str:
    lines = []
    for figure in figures:
        statuses = [verdict.status for _, _, verdict in judged[figure["name"]]]
        counts = [str(statuses.count(status) or "-") for status in STATUSES]
        anchor = "".join(letter for letter in figure["name"].lower() if letter.isalnum() or letter in " -")
        lines.append([f"[{figure['name']}](#{anchor.replace(' ', '-')})", *counts])
    return "Claims by status, once for each record that was asked.\n\n" + _table(
        ["", *STATUSES], lines, numeric=STATUSES
    )


def _header(experiment: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> str:
    """Said once: what the paper did, and what each record did."""
    lines = [f"- Paper: {experiment['paper']}."]
    found = records_of(experiment["records"], records)
    lines += [f"- {_link(name)}: {_describe(record)}." for name, record in found.items()]
    if not found:
        lines.append(f"- Ours: not run; `{experiment['command']}` makes a record.")
    return "\n".join(lines)


def _describe(record: Mapping[str, Any]) -> str:
    """In what a record differs from the paper's run: base, data, size, seeds, machine."""
    recipe = record.get("recipe") or {}
    model, stages = recipe.get("model") or {}, recipe.get("stages") or {}
    training = stages.get("task1") or recipe.get("training") or {}
    said = [f"preset {recipe['preset']}"] if recipe else []
    if "num_hidden_layers" in model:
        said.append(f"GPT-NeoX of {model['num_hidden_layers']} layers, hidden {model['hidden_size']}")
    if "base" in recipe:
        said.append(f"base {recipe['base']}")
    if "people" in recipe:
        said.append(f"{recipe['people']:,} people with {recipe['bios']} biographies each")
    for name, shown in (("train_data", "trained on"), ("english_data", "English"), ("korean_data", "Korean")):
        if name in recipe:
            sources = [recipe[name]] if isinstance(recipe[name], str) else recipe[name]
            said.append(f"{shown} {', '.join(sources)}")
    if "steps" in training:
        length = f" x {training['seq_length']} tokens" if "seq_length" in training else ""
        said.append(f"{training['steps']:,} steps of {training.get('batch_size', '?')}{length}")
    if "sequences" in record:
        said.append(f"{record['sequences']} x {record['tokens']} tokens of each text")
    if seeds := recipe.get("seeds"):
        said.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}")
    hardware = (record.get("environment") or {}).get("hardware") or {}
    gpus = hardware.get("gpus") or ()
    said.append(gpus[0] if gpus else f"{hardware.get('cores')} CPU cores")
    return ", ".join(said)


def _table1(records: Mapping[str, Mapping[str, Any]], experiment: Mapping[str, Any]) -> str:
    """Every cell of Table 1 in percent ± standard error: the paper's, and ours of each record that has any."""
    suites = _suites()
    fields, headings = [], []
    for suite in suites:
        fields += [f"{entry.task}/{entry.metric}" for entry in suite.entries] + [_average(suite)]
        headings += [entry.heading for entry in suite.entries] + [f"{suite.title} average"]
    found = {name: (record, read_rows(record)) for name, record in records_of(experiment["records"], records).items()}
    ours = {name: mine for name, mine in found.items() if any(set(fields) & set(row.values) for row in mine[1])}
    lines = []
    for row in read_rows(records[TABLE]):
        cells = [_percent(row.values[name], row.errors[name]) for name in fields]
        lines.append([_name(row.arm), "paper", *cells])
        for name, (record, rows) in ours.items():
            mine = [one for one in rows if one.arm == row.arm]
            lines.append(["", _link(name), *(_our_cell(mine, cell, row, record) for cell in fields)])
        if not ours:
            lines.append(["", "ours", *["not run" for _ in fields]])
    legend = (
        "Harness accuracy in percent ± standard error of the items (the paper's is computed from its values; of ours "
        "with several seeds ± is the standard deviation). Averages are over the row's own tasks of the language."
    )
    return _table(["", "", *headings], lines, numeric=headings) + "\n\n" + legend


def _our_cell(mine: Sequence[Row], name: str, paper: Row, record: Mapping[str, Any]) -> str:
    mine = [row for row in mine if name in row.values]
    if not mine:
        return "not run"
    mean, deviation = mean_and_deviation([row.values[name] for row in mine])
    spread = mine[0].errors.get(name) if deviation is None else deviation
    return _percent(mean, spread) + _compared(mine, name, paper.values[name], paper.errors[name], 5e-5, record)


def _values(figure: Mapping[str, Any], experiment: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> str:
    """The values of a figure: the paper's, and ours of each record."""
    ours = {name: (record, read_rows(record)) for name, record in records_of(experiment["records"], records).items()}
    headings: list[str] = []
    for column in figure["columns"]:
        headings += [f"{column['heading']}, paper", *(f"{column['heading']}, {_link(name)}" for name in ours)]
        headings += [] if ours else [f"{column['heading']}, ours"]
    lines = []
    for arm, printed in figure["values"].items():
        cells = [_name(arm)]
        for column, value, precision in zip(figure["columns"], printed, figure["precision"], strict=True):
            digits = 2 if column["unit"] == "perplexity" else 3
            cells.append("not given" if value is None else f"{value:.{digits}f}")
            for record, rows in ours.values():
                mine = [row for row in rows if row.arm == arm and column["field"] in row.values]
                cells.append(_our_value(mine, column["field"], value, precision, record, digits))
            cells += [] if ours else ["not run"]
        lines.append(cells)
    return _table(["", *headings], lines, numeric=headings)


def _our_value(
    mine: Sequence[Row], name: str, paper: float | None, precision: float, record: Mapping[str, Any], digits: int
) -> str:
    if not mine:
        return "not run"
    mean, deviation = mean_and_deviation([row.values[name] for row in mine])
    if deviation is not None:
        text = f"{mean:.{digits}f} ± {deviation:.{digits}f} ({len(mine)} seeds)"
    else:
        text = f"{mean:.{digits}f}" + ("" if mine[0].seed is None else " (1 seed)")
    return text + ("" if paper is None else _compared(mine, name, paper, 0.0, precision, record))


def _compared(
    mine: Sequence[Row], name: str, paper: float, error: float | None, precision: float, record: Mapping[str, Any]
) -> str:
    """Whether a number at the paper's size is the paper's; nothing of a number at another size."""
    if (record.get("recipe") or {}).get("preset") != PAPER:
        return ""
    mean, deviation = mean_and_deviation([row.values[name] for row in mine])
    own = mine[0].errors.get(name) if deviation is None else deviation / math.sqrt(len(mine))
    combined = math.hypot(own or 0.0, error or 0.0)
    return " verified" if abs(mean - paper) <= 2 * combined + precision else " differs"


def _claims(judged: Iterable[tuple[Mapping[str, Any], str | None, Verdict]]) -> str:
    lines = []
    last = None
    for claim, name, verdict in judged:
        says = "" if claim["says"] == last else claim["says"]
        last = claim["says"]
        lines.append([says, "-" if name is None else _link(name), verdict.status, verdict.why])
    return _table(["claim", "record", "status", "why"], lines)


def _open_points(experiments: Mapping[str, Mapping[str, Any]], records: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for point, answer, name in OPEN_POINTS:
        words = OTHERS.get(name) or experiments[name]["records"]
        found = ", ".join(map(_link, records_of(words, records)))
        lines.append([point, answer, found or f"not run: `{words}`"])
    return _table(["the paper leaves open", "our answer", "record"], lines)


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]], *, numeric: Sequence[str] = ()) -> str:
    """A table in Markdown. numeric: the headings of columns to align at their right."""
    rule = ["---:" if heading in numeric else "---" for heading in headings]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *lines))


def _link(name: str) -> str:
    return f"[{name.removesuffix('.json')}](records/{name})"


def _name(arm: str) -> str:
    return NAMES.get(arm, arm)


def _percent(value: float, error: float | None) -> str:
    return f"{100 * value:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}"


def main() -> None:
    """The command line: write the file, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail unless --out is up to date")
    arguments = parser.parse_args()
    try:
        text = render(load_records(arguments.records))
    except RequestError as error:
        print(f"reproduction: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    if not arguments.check:
        write_text(arguments.out, text)
    elif not arguments.out.is_file() or arguments.out.read_text(encoding="utf-8") != text:
        print(
            f"reproduction: {arguments.out} is not what the records give; run: python -m benchmarks.reproduction",
            file=sys.stderr,
        )
        raise SystemExit(1)


if __name__ == "__main__":
    main()
