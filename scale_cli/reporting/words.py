"""Legends of tables: definitions of columns, errors, changes and marks, for the terms that a table shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scale_cli.reporting.columns import Column, Group
from scale_cli.reporting.names import full_name, is_own, label_of, metric_words
from scale_cli.reporting.table import FACTS, Table
from scale_cli.results.groups import Role

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
DAGGER = "\N{DAGGER}"
Legend = list[tuple[str, str]]
"""Terms with their definitions."""
METRICS = {
    "hard": "share of questions for which the answer's first token is the most probable token, with teacher forcing.",
    "soft": "mean probability of the answer's first token, with teacher forcing.",
    "exact": "share of questions whose whole answer is produced by greedy generation.",
    "routed": "share of scored tokens that took the preserve branch.",
    "perplexity": "per token; comparable only between models with the same tokenizer.",
    "bits_per_byte": "per byte of UTF-8; comparable between tokenizers.",
    "bits_per_character": "per character; comparable between tokenizers.",
    "cosine": "cosine similarity of the last hidden state (of a widened model, its original half) and the base's.",
    "kl": "KL(base || model) of the next token, in nats.",
    "agreement": "share of tokens after which model and base have the same most probable next token.",
    "expansion_norm": "mean Frobenius norm of what is added to a linear map: W12, W21 and W22, or a new layer's map.",
    "weight_change": "mean Frobenius norm of a linear map's change against the base.",
}
"""Definitions of our own metrics."""


def table_legend(table: Table, *, changes: bool, best: str) -> Legend:
    """The legend of a stability-plasticity table.

    changes: the numbers are changes against the base. best: the term for the mark on a best value, as in "bold".
    """
    legend = role_terms(table)
    if not legend and not all(group.is_drift for group in table.groups):
        legend.append(
            (
                "stability, plasticity",
                "ability of the base that is kept, and ability gained on the new data; no column has such a role (call "
                "texts old and new, or give --suite, or --stability and --plasticity).",
            )
        )
    legend += change_terms(table, changes=changes)
    numbers = table.cells[~table.cells["column"].isin(FACTS)]
    if numbers[["error", "change_error"]].notna().any(axis=None):
        legend.append((PLUS_MINUS, error_words(aggregated=table.aggregated)))
    if any(column.parts for column in table.columns):
        legend.append(
            (
                "average",
                "mean of the group's columns with equal weights; its error assumes independent tasks: the square root "
                "of the sum of their squared errors, divided by their number.",
            )
        )
    legend += standing_out(table, best=best)
    kinds = dict.fromkeys(column.metric.partition("/")[0] for column in table.columns if column.is_task)
    legend += [(metric_words(kind), METRICS[kind]) for kind in kinds if kind in METRICS]
    legend.append(("columns", columns_words(table.groups)))
    return legend + [("note", note) for note in (*_reported_notes(table), *table.notes)]


def role_terms(table: Table) -> Legend:
    """Definitions of the roles of a table's groups, with the groups' titles."""
    meanings: tuple[tuple[Role, str], ...] = (
        ("stability", "ability of the base that is kept"),
        ("plasticity", "ability gained on the new data"),
    )
    titles = {role: [group.title for group in table.groups if group.role == role] for role, _ in meanings}
    return [(role, f"{meaning}; here {joined(titles[role])}.") for role, meaning in meanings if titles[role]]


def change_terms(table: Table, *, changes: bool = False) -> Legend:
    """Names, signs and units of the changes against the base; empty if the table has no base.

    changes: every number of the table is a change, after minus base.
    """
    if table.base is None:
        return []
    base = table.base.label
    if changes:
        return [("each number", f"change against {base}: after minus base, in the metric's own units.")]
    names: tuple[tuple[Role | None, str, str], ...] = (
        ("stability", "base minus after", "lost"),
        ("plasticity", "after minus base", "learnt"),
        (None, "after minus base", ""),
    )
    changed = set(table.cells[table.cells["change"].notna()]["column"])
    terms: Legend = []
    for role, order, positive in names:
        groups = [group for group in table.groups if group.role == role]
        columns = [group.summary for group in groups if group.summary is not None and group.summary.key in changed]
        if not columns:
            continue
        kind = "average" if all(column.parts for column in columns) else "column"
        kind += "s" if len(columns) > 1 else ""
        turned = [column for column in columns if role and not column.higher_is_better]
        other_order = ""
        if turned:
            reversed_order = " minus ".join(reversed(order.split(" minus ")))
            if len(turned) == len(columns):
                order = reversed_order
            else:
                other_order = f" ({reversed_order} if lower is better)"
        subject = f"{role} {kind}" if role else kind
        sign = f"; positive means {positive}" if positive else ""
        meaning = f"{order} of the {subject}, in {joined(map(_unit, columns))}{other_order}{sign}. The base is {base}."
        terms.append((groups[0].change_heading, meaning))
    return terms


def standing_out(table: Table, *, best: str) -> Legend:
    """Definitions of the marks on a table's numbers and rows. best: the term for the mark on a best value."""
    legend: Legend = []
    if table.cells["best"].any():
        legend.append(
            (
                best,
                "best of its column without the base, if its lead over the next exceeds the standard error of their "
                "difference.",
            )
        )
    if any(row.pareto for row in table.rows):
        legend.append(
            (
                DAGGER,
                "Pareto-optimal: no other row is at least as good in both stability and plasticity and better in one; "
                "errors are not taken into account.",
            )
        )
    return legend


def _unit(column: Column) -> str:
    return "percentage points" if column.percent else label_of(column.task, column.metric)


def error_words(*, aggregated: bool) -> str:
    """The definition of the number after a plus-minus sign. aggregated: some rows are means over seeds."""
    single = (
        "one standard error; that of a difference is paired by item if both have scores of the same items, else "
        "computed from both errors."
    )
    return f"one standard deviation over the seeds if a row has several; else {single}" if aggregated else single


def columns_words(groups: Sequence[Group]) -> str:
    """Tasks and metrics of the groups' columns in the harness's words, with measurement settings and item counts.

    Facts shared by all columns, or by all columns of a group, are given once.
    """
    columns = [[column for column in group.columns if column.is_task] for group in groups]
    shared = _common([column for group_columns in columns for column in group_columns])
    parts = []
    for group, group_columns in zip(groups, columns, strict=True):
        of_group = [fact for fact in _common(group_columns) if fact not in shared] if len(group_columns) > 1 else []
        given = {*shared, *of_group}
        names = [_named(column, [fact for fact in _facts(column) if fact not in given]) for column in group_columns]
        is_unnamed = group_columns and group_columns[0].flat_label == full_name(
            group_columns[0].task, group_columns[0].metric
        )
        title = f"{group.title}: " if is_unnamed else ""
        parts.append(f"{title}{', '.join(names)}{f' (all {joined(of_group)})' if of_group else ''}")
    return f"{f'all {joined(shared)}: ' if shared else ''}{'; '.join(filter(None, parts))}."


def _common(columns: Sequence[Column]) -> list[str]:
    """The facts shared by several columns; none for a single column."""
    facts = [_facts(column) for column in columns]
    return [fact for fact in facts[0] if all(fact in others for others in facts)] if len(facts) > 1 else []


def _named(column: Column, facts: Sequence[str]) -> str:
    name = full_name(column.task, column.metric)
    named = column.label if column.flat_label == name else f"{column.flat_label} = {name}"
    if column.flat_label != name and column.flat_label.lower() == name.lower():
        named = name
    return f"{named} ({', '.join(facts)})" if facts else named


def _facts(column: Column) -> list[str]:
    """The measurement settings of a column; columns of a table often share most of them."""
    facts = {
        "in percent": column.percent,
        "lower is better": not column.higher_is_better,
        f"{column.num_fewshot}-shot": column.num_fewshot is not None,
        f"{column.aggregation} average of its subtasks": column.aggregation is not None,
        f"filter {column.filter}": column.filter not in ("", "none"),
        f"version {column.task_version}": column.task_version is not None and not is_own(column.task),
        f"only the first {column.limit} items": column.limit is not None,
        f"n={column.samples:,}": column.samples > 0,
    }
    return [fact for fact, holds in facts.items() if holds]


def _reported_notes(table: Table) -> list[str]:
    """One note per source of rows that are reported and not measured here."""
    sources: dict[str, list[str]] = {}
    for row in table.rows:
        if row.reported:
            source = str(table.results[row.results[0]].record["reported"])
            sources.setdefault(source, []).append(row.label)
    return [
        f"{'All values' if len(labels) == len(table.rows) else joined(labels)}: reported by {source}, not measured "
        "here."
        for source, labels in sources.items()
    ]


def joined(words: Iterable[str]) -> str:
    """The distinct words as "a", "a and b", or "a, b and c"."""
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} and {last}" if first else last
