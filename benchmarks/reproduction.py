"""Reproduction of the paper: `python -m benchmarks.reproduction` writes benchmarks/REPRODUCTION.md from records alone.

The paper's numbers and claims are data, in `paper-table1.json` and `paper-figures.json`. The other records hold our
measurements. A number is compared with the paper's only if it was measured at the paper's own size. At another size,
only claims about the order of rows are tested, by `RULE`. With --check nothing is written, and the exit code is 1 if
the file is out of date.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.claims import STATUSES, Verdict, average, judge, name_of, numbers_of, suites
from scale_cli.bench.ablations import FIGURES as PAPER_FIGURES
from scale_cli.bench.continual_recipe import from_older
from scale_cli.core.errors import RequestError
from scale_cli.core.files import write_text
from scale_cli.core.records import read_record
from scale_cli.reporting.documents import markdown_table
from scale_cli.reporting.statistics import mean_and_deviation

RECORDS = Path(__file__).parent / "records"
OUT = Path(__file__).parent / "REPRODUCTION.md"
TABLE, FIGURES = "paper-table1.json", "paper-figures.json"
"""The paper's Table 1, a record like ours, and the values and claims of its figures."""
PAPER = "paper"
"""The preset whose numbers are compared with the paper's."""

RULE = """\
- **verified**: every comparison in the claim has the claimed sign, and the 95% confidence interval of its difference
  excludes zero.
- **differs**: some comparison has the opposite sign, and its interval excludes zero.
- **undecided**: measured, but neither verified nor different.
- **not run**: no record has the numbers; the command in the table makes one.

With several seeds, the interval is Student's, over the differences between two rows on the same seed. With one seed,
the interval is normal. It uses the standard errors of the measured items and contains no variation between seeds. The
errors are those of each row's change against the base, paired by item, if both rows have them. The two changes are
treated as independent, which overstates the error if the same items are easier for both rows. Rows without a paired
change use the errors of their own items.

A claim of exactness is verified if every row is exact. A claim of a near-linear relation is verified if the correlation
is at least 0.9. A claim is tested at the size of its record, so a verified claim is the paper's order at that size, not
the paper's number. Numbers are compared with the paper's only in records of a `paper` preset. Such a number is verified
if it lies within two standard errors plus the precision of reading the figure."""
"""The numbers are `claims.SIGNIFICANT` and `claims.LINEAR`."""

OPEN_POINTS = (
    (
        "Norms of the widened hidden state",
        "Each half has its own norm, of the base's kind; a single norm over both halves would change the base's half.",
        "fidelity",
    ),
    (
        "Initialisation of the added embedding columns and of the added head",
        "The columns start as the embedding's leading singular directions, or with another `--init` as random numbers "
        "of the embedding's standard deviation. The head starts at zero, so the logits before training are exactly the "
        "base's.",
        "fidelity",
    ),
    (
        "Modules in which W12 trains in the main runs",
        "Attention only; `--adapt-modules attention,ffn` adds the feed-forward. The experiment compares both.",
        "ablations-where",
    ),
    (
        "Optimiser and weight decay of the Korean runs",
        "AdamW, weight decay 0.01 for all parameters except norms and biases, gradients clipped to norm 1, unless the "
        "recipe sets other values. Every record has the resolved recipe.",
        "korean",
    ),
    (
        "Seeds",
        "One repetition per seed; every record names its seeds. Tables of several seeds show mean and standard "
        "deviation.",
        "korean",
    ),
    (
        "SCALE-Route's loss and its threshold",
        "The decision r is 0 or 1 and has no gradient, so `(1 - r) L(Z_P) + r L(Z_A)` is the loss of the logits that "
        "eq. 5 selects. The threshold is an option; the paper uses 0.5, and the experiment varies it.",
        "ablations-threshold",
    ),
    (
        "Biography results of the methods that the paper leaves out",
        "LoRA, Freeze, SCALE-Preserve and SCALE-Adapt are run too, at the rates in scale_cli/bench/proportions.py.",
        "bios",
    ),
)
"""A point that the paper leaves open, our answer, and the experiment whose records use the answer."""
OTHERS = {
    "ablations-where": "scale bench ablations where",
    "ablations-threshold": "scale bench ablations threshold",
}
"""Experiments without a figure in the paper, by name, with their command."""


# Reading records


def load_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The paper's figures and the records in a folder, by file name in alphabetical order.

    Raises RequestError for a JSON file that is not a record, and if the paper's table is missing.
    """
    try:
        records = {file.name: read_record(file) for file in (PAPER_FIGURES, *sorted(folder.glob("*.json")))}
    except ValueError as error:
        raise RequestError(f"--records {folder}: {error}; leave only records there") from error
    if TABLE not in records:
        raise RequestError(f"--records {folder} lacks {TABLE}; name a folder with the paper's records")
    return records


def records_of(command: str, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The records whose command contains `command`, by file name. It may follow a launcher such as torchrun."""
    return {name: record for name, record in records.items() if f" {command} " in f" {record['command']} "}


# Writing


def render(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of REPRODUCTION.md. records: by file name, as `load_records` returns them."""
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
        "# Reproduction of the paper",
        "Generated by `python -m benchmarks.reproduction` from [the records](records) alone; a test checks this. The "
        "paper is SCALE, arXiv 2511.03270. Its numbers are taken from [its Table 1](records/paper-table1.json) and "
        "[read off its figures](../scale_cli/bench/paper-figures.json). The latter file also holds its claims, in our "
        "words.",
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
                    printed = numbers_of(records[TABLE])
                    parts += [
                        "The same claims, tested on the paper's own numbers with the standard errors of their items:",
                        _claims((claim, TABLE, judge(claim, printed)) for claim in figure["claims"]),
                    ]
    parts += ["## Open points of the paper", _open_points(experiments, records)]
    return "\n\n".join(parts) + "\n"


def _verdicts(
    claim: Mapping[str, Any], experiment: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str | None, Verdict]]:
    """The verdict on a claim in each record of its experiment, with the record's name; "not run" without records."""
    own = records_of(experiment["records"], records)
    if not own:
        return [(None, Verdict("not run", f"`{experiment['command']}`"))]
    return [(name, judge(claim, numbers_of(record))) for name, record in own.items()]


def _overview(
    figures: Sequence[Mapping[str, Any]], judged: Mapping[str, Sequence[tuple[Any, str | None, Verdict]]]
) -> str:
    lines = []
    for figure in figures:
        statuses = [verdict.status for _, _, verdict in judged[figure["name"]]]
        counts = [str(statuses.count(status) or "-") for status in STATUSES]
        anchor = "".join(letter for letter in figure["name"].lower() if letter.isalnum() or letter in " -")
        lines.append([f"[{figure['name']}](#{anchor.replace(' ', '-')})", *counts])
    return "Number of claims by status; a claim counts once per record of its experiment.\n\n" + _table(
        ["", *STATUSES], lines, numeric=STATUSES
    )


def _header(experiment: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> str:
    """The setup of the paper's experiment and of each record."""
    lines = [f"- Paper: {experiment['paper']}."]
    own = records_of(experiment["records"], records)
    lines += [f"- {_link(name)}: {_describe(record)}." for name, record in own.items()]
    if not own:
        lines.append(f"- Ours: not run; `{experiment['command']}` makes a record.")
    return "\n".join(lines)


def _describe(record: Mapping[str, Any]) -> str:
    """The setup of a record: base, data, size, seeds, machine."""
    recipe = record.get("recipe") or {}
    model, stages = recipe.get("model") or {}, recipe.get("stages") or {}
    training = stages.get("task1") or recipe.get("training") or {}
    facts = [f"preset {recipe['preset']}"] if recipe else []
    if "num_hidden_layers" in model:
        facts.append(f"GPT-NeoX of {model['num_hidden_layers']} layers, hidden {model['hidden_size']}")
    if "base" in recipe:
        facts.append(f"base {recipe['base']}")
    if "people" in recipe:
        facts.append(f"{recipe['people']:,} people with {recipe['bios']} biographies each")
    if "train_data" in recipe:
        facts.append(f"trained on {', '.join(recipe['train_data'])}")
        texts = from_older(dict(recipe))["texts"]
        facts += [f"{text.title()} {fields['source']}" for text, fields in texts.items()]
    if "steps" in training:
        length = f" x {training['seq_length']} tokens" if "seq_length" in training else ""
        facts.append(f"{training['steps']:,} steps of {training.get('batch_size', '?')}{length}")
    if "sequences" in record:
        facts.append(f"{record['sequences']} x {record['tokens']} tokens of each text")
    if seeds := recipe.get("seeds"):
        facts.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}")
    hardware = (record.get("environment") or {}).get("hardware") or {}
    gpus, cores = hardware.get("gpus") or (), hardware.get("cores")
    facts.append(gpus[0] if gpus else f"{cores} CPU core{'' if cores == 1 else 's'}")
    return ", ".join(facts)


def _table1(records: Mapping[str, Mapping[str, Any]], experiment: Mapping[str, Any]) -> str:
    """Table 1 in percent ± standard error: the paper's cells, and ours from each record with any of them."""
    fields, headings = [], []
    for suite in suites():
        fields += [f"{entry.task}/{entry.metric}" for entry in suite.entries] + [average(suite)]
        headings += [entry.heading for entry in suite.entries] + [f"{suite.title} average"]
    own = {name: (record, numbers_of(record)) for name, record in records_of(experiment["records"], records).items()}
    ours = {name: (record, numbers) for name, (record, numbers) in own.items() if numbers["field"].isin(fields).any()}
    printed = numbers_of(records[TABLE])
    lines = []
    for arm in dict.fromkeys(printed["arm"]):
        paper = {field: _picked(printed, arm, field).iloc[0] for field in fields}
        lines.append([name_of(arm), "paper", *(_percent(paper[f]["value"], paper[f]["stderr"]) for f in fields)])
        for name, (record, numbers) in ours.items():
            cells = (_our_cell(_picked(numbers, arm, field), paper[field], record) for field in fields)
            lines.append(["", _link(name), *cells])
        if not ours:
            lines.append(["", "ours", *["not run" for _ in fields]])
    legend = (
        "Harness accuracy in percent ± standard error over items. The paper's errors are computed from its values. "
        "For our rows with several seeds, ± is the standard deviation. Averages are over the row's own tasks of the "
        "language."
    )
    return _table(["", "", *headings], lines, numeric=headings) + "\n\n" + legend


def _picked(numbers: pd.DataFrame, arm: str, field: str) -> pd.DataFrame:
    """The numbers of a row in a field, one per seed."""
    picked = numbers[(numbers["arm"] == arm) & (numbers["field"] == field)]
    return picked.drop_duplicates("seed", keep="last")


def _our_cell(own: pd.DataFrame, paper: pd.Series, record: Mapping[str, Any]) -> str:
    if own.empty:
        return "not run"
    mean, deviation = mean_and_deviation(list(own["value"]))
    spread = own["stderr"].iloc[0] if deviation is None else deviation
    return _percent(mean, spread) + _compared(own, paper["value"], paper["stderr"], 5e-5, record)


def _values(figure: Mapping[str, Any], experiment: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of a figure's values: the paper's, and ours from each record."""
    ours = {name: (record, numbers_of(record)) for name, record in records_of(experiment["records"], records).items()}
    headings: list[str] = []
    for column in figure["columns"]:
        headings += [f"{column['heading']}, paper", *(f"{column['heading']}, {_link(name)}" for name in ours)]
        headings += [] if ours else [f"{column['heading']}, ours"]
    lines = []
    for arm, printed in figure["values"].items():
        cells = [name_of(arm)]
        for column, value, precision in zip(figure["columns"], printed, figure["precision"], strict=True):
            digits = 2 if column["unit"] == "perplexity" else 3
            cells.append("not given" if value is None else f"{value:.{digits}f}")
            for record, numbers in ours.values():
                cells.append(_our_value(_picked(numbers, arm, column["field"]), value, precision, record, digits))
            cells += [] if ours else ["not run"]
        lines.append(cells)
    return _table(["", *headings], lines, numeric=headings)


def _our_value(own: pd.DataFrame, paper: float | None, precision: float, record: Mapping[str, Any], digits: int) -> str:
    if own.empty:
        return "not run"
    mean, deviation = mean_and_deviation(list(own["value"]))
    if deviation is not None:
        text = f"{mean:.{digits}f} ± {deviation:.{digits}f} ({len(own)} seeds)"
    else:
        text = f"{mean:.{digits}f}" + ("" if own["seed"].isna().all() else " (1 seed)")
    return text + ("" if paper is None else _compared(own, paper, 0.0, precision, record))


def _compared(own: pd.DataFrame, paper: float, error: float, precision: float, record: Mapping[str, Any]) -> str:
    """ " verified" or " differs" for a number measured at the paper's size; empty at another size.

    own: our numbers, one per seed. paper, error, precision: the paper's number, its standard error, and the largest
    error of reading it.
    """
    if (record.get("recipe") or {}).get("preset") != PAPER:
        return ""
    mean, deviation = mean_and_deviation(list(own["value"]))
    ours = own["stderr"].iloc[0] if deviation is None else deviation / math.sqrt(len(own))
    combined = math.hypot(*(0.0 if pd.isna(value) else value for value in (ours, error)))
    return " verified" if abs(mean - paper) <= 2 * combined + precision else " differs"


def _claims(judged: Iterable[tuple[Mapping[str, Any], str | None, Verdict]]) -> str:
    """The table of verdicts. A claim's text stands only in the first of its lines."""
    lines = []
    last = None
    for claim, name, verdict in judged:
        text = "" if claim["says"] == last else claim["says"]
        last = claim["says"]
        lines.append([text, "-" if name is None else _link(name), verdict.status, verdict.why])
    return _table(["claim", "record", "status", "why"], lines)


def _open_points(experiments: Mapping[str, Mapping[str, Any]], records: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for point, answer, name in OPEN_POINTS:
        command = OTHERS.get(name) or experiments[name]["records"]
        links = ", ".join(map(_link, records_of(command, records)))
        lines.append([point, answer, links or f"not run: `{command}`"])
    return _table(["the paper leaves open", "our answer", "record"], lines)


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]], *, numeric: Sequence[str] = ()) -> str:
    """A table in Markdown. numeric: headings of the columns to align right."""
    return markdown_table(pd.DataFrame(lines, columns=list(headings), dtype=object), numeric=numeric)


def _link(name: str) -> str:
    return f"[{name.removesuffix('.json')}](records/{name})"


def _percent(value: float, error: float) -> str:
    return f"{100 * value:.2f}" + ("" if pd.isna(error) else f" ± {100 * error:.2f}")


def main() -> None:
    """Write the file, or check it with --check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the records")
    parser.add_argument("--out", type=Path, default=OUT, help="file to write or check")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if --out is out of date")
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
            f"reproduction: {arguments.out} is out of date; run: python -m benchmarks.reproduction",
            file=sys.stderr,
        )
        raise SystemExit(1)


if __name__ == "__main__":
    main()
