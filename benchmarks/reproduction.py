"""What is reproduced: `python -m benchmarks.reproduction` writes benchmarks/REPRODUCTION.md from the records alone.

What the paper prints and claims is data (`paper-table1.json`, `paper-figures.json`); what we measured are the other
records. A number is compared with the paper's only where it was measured at the paper's own size; at
another size it is the claim, an order of rows, that is tested, and the rule below says when it holds. With --check
nothing is written, and the exit code is 1 where the file is not what the records give.
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
from scale_cli.bench.continual import from_older
from scale_cli.core.errors import RequestError
from scale_cli.core.files import write_text
from scale_cli.core.records import read_record
from scale_cli.reporting.documents import markdown_table
from scale_cli.reporting.statistics import mean_and_deviation

RECORDS = Path(__file__).parent / "records"
OUT = Path(__file__).parent / "REPRODUCTION.md"
TABLE, FIGURES = "paper-table1.json", "paper-figures.json"
"""What the paper prints, a record like others, and what its figures say, which `scale bench ablations` shows too."""
PAPER = "paper"
"""The preset whose numbers are compared with the paper's."""

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
"""With `claims.SIGNIFICANT` and `claims.LINEAR` as numbers."""

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
                    printed = numbers_of(records[TABLE])
                    parts += [
                        "The same claims put to the paper's own numbers, with the standard errors of their items:",
                        _claims((claim, TABLE, judge(claim, printed)) for claim in figure["claims"]),
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
    return [(name, judge(claim, numbers_of(record))) for name, record in found.items()]


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
    if "train_data" in recipe:
        said.append(f"trained on {', '.join(recipe['train_data'])}")
        texts = from_older(dict(recipe))["texts"]
        said += [f"{text.title()} {fields['source']}" for text, fields in texts.items()]
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
    fields, headings = [], []
    for suite in suites():
        fields += [f"{entry.task}/{entry.metric}" for entry in suite.entries] + [average(suite)]
        headings += [entry.heading for entry in suite.entries] + [f"{suite.title} average"]
    found = {name: (record, numbers_of(record)) for name, record in records_of(experiment["records"], records).items()}
    ours = {name: own for name, own in found.items() if own[1]["field"].isin(fields).any()}
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
        "Harness accuracy in percent ± standard error of the items (the paper's is computed from its values; of ours "
        "with several seeds ± is the standard deviation). Averages are over the row's own tasks of the language."
    )
    return _table(["", "", *headings], lines, numeric=headings) + "\n\n" + legend


def _picked(numbers: pd.DataFrame, arm: str, field: str) -> pd.DataFrame:
    """The numbers of a row in a field, one per seed."""
    found = numbers[(numbers["arm"] == arm) & (numbers["field"] == field)]
    return found.drop_duplicates("seed", keep="last")


def _our_cell(own: pd.DataFrame, paper: pd.Series, record: Mapping[str, Any]) -> str:
    if own.empty:
        return "not run"
    mean, deviation = mean_and_deviation(list(own["value"]))
    spread = own["stderr"].iloc[0] if deviation is None else deviation
    return _percent(mean, spread) + _compared(own, paper["value"], paper["stderr"], 5e-5, record)


def _values(figure: Mapping[str, Any], experiment: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> str:
    """The values of a figure: the paper's, and ours of each record."""
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
    """Whether a number at the paper's size is the paper's; nothing of a number at another size."""
    if (record.get("recipe") or {}).get("preset") != PAPER:
        return ""
    mean, deviation = mean_and_deviation(list(own["value"]))
    ours = own["stderr"].iloc[0] if deviation is None else deviation / math.sqrt(len(own))
    combined = math.hypot(*(0.0 if pd.isna(one) else one for one in (ours, error)))
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
    return markdown_table(pd.DataFrame(lines, columns=list(headings), dtype=object), numeric=numeric)


def _link(name: str) -> str:
    return f"[{name.removesuffix('.json')}](records/{name})"


def _percent(value: float, error: float) -> str:
    return f"{100 * value:.2f}" + ("" if pd.isna(error) else f" ± {100 * error:.2f}")


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
