"""The words that explain a table: what its columns are, what errors and changes mean, and what stands out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scale_cli.reporting.columns import Column, Group
from scale_cli.reporting.table import Table
from scale_cli.results.groups import Role

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
DAGGER = "\N{DAGGER}"
Legend = list[tuple[str, str]]
"""Terms and what they mean."""
METRICS = {
    "hard": "the share of questions whose answer's first token is the most probable one, teacher forced.",
    "soft": "the mean probability of the answer's first token.",
    "exact": "the share of questions whose whole answer greedy generation gives.",
    "routed": "the share of scored tokens that took the preserve branch.",
    "perplexity": "per token; only models with the same tokenizer share it.",
    "bits_per_byte": "of UTF-8, whatever the tokenizer.",
    "bits_per_character": "whatever the tokenizer.",
    "cosine": "between the last hidden state (of a widened model its original half) and the base's.",
    "kl": "KL(base || model) of the next token, in nats.",
    "agreement": "the share of tokens after which model and base find the same token most probable.",
    "expansion_norm": "mean Frobenius norm of what was added to a linear map: W12, W21 and W22, or a new layer's map.",
    "weight_change": "mean Frobenius norm of a linear map's change against the base.",
}
"""What our own metrics are."""


def table_legend(table: Table, *, changes: bool, best: str) -> Legend:
    """How to read a stability-plasticity table. changes: its numbers are changes. best: how the best stands out."""
    legend: Legend = []
    for role, meaning in (
        ("stability", "what is kept of the base's ability"),
        ("plasticity", "what is gained on the new data"),
    ):
        titles = [group.title for group in table.groups if group.role == role]
        if titles:
            legend.append((role, f"{meaning}; here {joined(titles)}."))
    if not legend:
        legend.append(
            (
                "stability, plasticity",
                "what is kept of the base's ability, and what is gained on the new data; no suite says which columns "
                "measure them (give --suite, or --stability and --plasticity).",
            )
        )
    if table.base is not None:
        legend += _change_terms(table, table.base.label, changes)
    legend.append((PLUS_MINUS, error_words(aggregated=table.aggregated)))
    if any(column.parts for column in table.columns):
        legend.append(
            (
                "average",
                "mean of the group's columns, each with the same weight; its error takes the tasks as independent: the "
                "root of the sum of their squared errors, over their number.",
            )
        )
    legend += standing_out(table, best=best)
    kinds = dict.fromkeys(column.metric.partition("/")[0] for column in table.columns if column.is_task)
    legend += [(kind.replace("_", " "), METRICS[kind]) for kind in kinds if kind in METRICS]
    legend.append(("columns", columns_words(table.groups)))
    return legend + [("note", note) for note in (*_reported_notes(table), *table.notes)]


def standing_out(table: Table, *, best: str) -> Legend:
    """What the marks on a table's numbers and rows mean."""
    legend: Legend = []
    if table.cells["best"].any():
        legend.append(
            (
                best,
                "best of its column, the base left out, where its lead over the next is larger than the standard error "
                "of that difference.",
            )
        )
    if any(row.pareto for row in table.rows):
        legend.append(
            (
                DAGGER,
                "Pareto-optimal: no other row is at least as good in stability and in plasticity and better in one; "
                "by the values alone, whatever their errors.",
            )
        )
    return legend


def _change_terms(table: Table, base: str, changes: bool) -> Legend:
    """What the changes against the base are called and how they are signed."""
    if changes:
        return [("each number", f"the change against {base}: after minus base, in the metric's own units.")]
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
        what = "average" if any(column.parts for column in columns) else "column"
        turned = [column for column in columns if role and not column.higher_is_better]
        other_way = f" (where lower is better, {' minus '.join(order.split(' minus ')[::-1])})" if turned else ""
        terms.append(
            (
                groups[0].change_heading,
                f"{order} of the {f'{role} ' if role else ''}{what}, in {joined(map(_unit, columns))}{other_way}"
                f"{f'; positive is {positive}' if positive else ''}. The base is {base}.",
            )
        )
    return terms


def _unit(column: Column) -> str:
    return "points of percent" if column.percent else column.metric


def error_words(*, aggregated: bool) -> str:
    """What the number behind a plus-minus sign is. aggregated: some rows are means over seeds."""
    words = (
        "one standard error; that of a difference is paired by item where both have scores of the same items, else "
        "from both errors."
    )
    return f"one standard deviation over the seeds, where a row has several; else {words}" if aggregated else words


def columns_words(groups: Sequence[Group]) -> str:
    """What the columns of groups are: tasks and metrics in the harness's words, how they were measured, and on how many
    items; what all columns or those of a group share is told once."""
    columns = [[column for column in group.columns if column.is_task] for group in groups]
    shared = _common([column for found in columns for column in found])
    words = []
    for group, found in zip(groups, columns, strict=True):
        of_group = [fact for fact in _common(found) if fact not in shared] if len(found) > 1 else []
        known = {*shared, *of_group}
        names = [_named(column, [fact for fact in _facts(column) if fact not in known]) for column in found]
        title = f"{group.title}: " if found and found[0].flat_label == f"{found[0].task} {found[0].metric}" else ""
        words.append(f"{title}{', '.join(names)}{f' (all {joined(of_group)})' if of_group else ''}")
    return f"{f'all {joined(shared)}: ' if shared else ''}{'; '.join(filter(None, words))}."


def _common(columns: Sequence[Column]) -> list[str]:
    """The facts that several columns share."""
    facts = [_facts(column) for column in columns]
    return [fact for fact in facts[0] if all(fact in others for others in facts)] if len(facts) > 1 else []


def _named(column: Column, facts: Sequence[str]) -> str:
    name = f"{column.task} {column.metric}"
    named = column.label if column.flat_label == name else f"{column.flat_label} = {name}"
    return f"{named} ({', '.join(facts)})" if facts else named


def _facts(column: Column) -> list[str]:
    """How a column was measured, most of which the columns of a table often share."""
    facts = {
        "in percent": column.percent,
        "lower is better": not column.higher_is_better,
        f"{column.num_fewshot}-shot": column.num_fewshot is not None,
        f"{column.aggregation} average of its subtasks": column.aggregation is not None,
        f"filter {column.filter}": column.filter not in ("", "none"),
        f"version {column.task_version}": column.task_version is not None,
        f"only the first {column.limit} items": column.limit is not None,
        f"n={column.samples:,}": True,
    }
    return [fact for fact, holds in facts.items() if holds]


def _reported_notes(table: Table) -> list[str]:
    """Which rows are reported and not measured here."""
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
    """ "a", "a and b", "a, b and c"."""
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} and {last}" if first else last
