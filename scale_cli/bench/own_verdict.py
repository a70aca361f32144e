"""The verdict on a run on one's own texts: what each row kept and learnt, and the best row of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scale_cli.core.files import to_json, write_text

if TYPE_CHECKING:
    from scale_cli.bench.stages import BenchResult
    from scale_cli.reporting.requirements import Verdict
    from scale_cli.reporting.table import Row, Table
    from scale_cli.results.result import CheckpointInfo

NEW, OLD = "new", "old"
RULE = "the largest gain on new among the rows that kept old for certain; if none did, the least forgetting"
"""How the best row of a method is chosen, as trained or under a router."""


def judged(result: BenchResult, allow: float) -> tuple[Table, list[Verdict]]:
    """The table of a run, and for each row whether it lost at most the share `allow` of the base's bits per byte."""
    from scale_cli.reporting.requirements import judge
    from scale_cli.reporting.table import build_table

    results = [each.with_routed() for each in result.results]
    name = Path(result.recipe.preset).parent.name
    table = build_table(results, result.groups, title=f"{name}: old and new", base="base", seeds=True)
    (before,) = (m.value for m in results[0].find(f"perplexity:{OLD}", "bits_per_byte"))
    return table, judge(table, [f"{OLD}.forgetting<={allow * before:.4g}"])


def best_kept(table: Table, verdicts: Sequence[Verdict]) -> Row | None:
    """The row with the largest gain among those that kept OLD; None if none did for certain."""
    kept = {verdict.row for verdict in verdicts if verdict.outcome == "met"}
    rows = [row for row in table.rows if row.label in kept]
    return min(rows, key=lambda row: change(table, row, NEW), default=None)


def best_rows(table: Table, verdicts: Sequence[Verdict]) -> dict[str, Row]:
    """The best row of each method, by `RULE`, as trained and under each router: "fft", "fft, mixture:0"."""
    judged = {verdict.row for verdict in verdicts}
    rows: dict[str, list[Row]] = {}
    for row in table.rows:
        if row.label in judged:
            info = info_of(table, row)
            rows.setdefault(f"{info.method}{'' if info.router is None else f', {info.router}'}", []).append(row)
    best = {}
    for name, own in rows.items():
        kept = best_kept(table, [verdict for verdict in verdicts if verdict.row in {row.label for row in own}])
        best[name] = kept or min(own, key=lambda row: change(table, row, OLD))
    return best


def save_best(table: Table, verdicts: Sequence[Verdict], file: Path, *, allow: float) -> None:
    """Write the best rows as JSON. allow: the share that counts as kept."""
    outcomes = {verdict.row: verdict.outcome for verdict in verdicts}
    best = best_kept(table, verdicts)
    best_of = {name: _fields(table, row, outcomes) for name, row in best_rows(table, verdicts).items()}
    write_text(file, to_json({"rule": RULE, "allow": allow, "best": best and best.label, "best_of": best_of}) + "\n")


def _fields(table: Table, row: Row, outcomes: Mapping[str, str]) -> dict[str, object]:
    info = info_of(table, row)
    return {
        "row": row.label,
        "checkpoint": info.source,
        "router": info.router,
        "lr": rate_of(info),
        "old": change(table, row, OLD),
        "new": change(table, row, NEW),
        "old_kept": outcomes[row.label],
    }


def info_of(table: Table, row: Row) -> CheckpointInfo:
    """The checkpoint of a row, with several seeds that of the first."""
    return table.results[row.results[0]].checkpoint


def rate_of(info: CheckpointInfo) -> float:
    """The learning rate of a checkpoint that a run trained."""
    return float((info.recipe or {})["lr"])


def change(table: Table, row: Row, text: str) -> float:
    """The change of a row's bits per byte on a text against the base, as a share of the base's."""
    column = next(c for c in table.columns if (c.task, c.metric) == (f"perplexity:{text}", "bits_per_byte"))
    cell = table.cell(row, column)
    assert cell is not None
    assert cell.change is not None
    return cell.change / (cell.value - cell.change)
