"""The tables of the statistics of texts."""

from __future__ import annotations

from scale_cli.data.statistics import DataReport, Overlap, Part, TextStatistics, TokenStatistics
from scale_cli.reporting.documents import text
from scale_cli.reporting.texts import data_sheets

NEW = TextStatistics(
    name="bills.jsonl",
    source="b",
    role="data",
    complete=True,
    documents=47_977,
    empty=0,
    bytes=68_700_000,
    words=6_110_000,
    repeated=13,
    tokens=TokenStatistics(59_000_000, 59_048_000, 982.0, 31_281, 46_989, 34_600_000),
    samples=(),
)
OLD = TextStatistics(
    name="old (held out)",
    source="o",
    role="held out",
    complete=False,
    documents=168,
    empty=2,
    bytes=95_600,
    words=15_700,
    repeated=0,
    tokens=TokenStatistics(21_900, 22_068, 116.5, 508, 0, 0),
    samples=(),
)


def test_tables() -> None:
    parts = (Part("a", 0.75, None, None, 2.5), Part("b", 0.25, None, None, 2.5), Part("together", 1.0, 9, 1_002, 2.5))
    report = DataReport(512, 20_000, (NEW, OLD), parts, (Overlap("bills.jsonl", "old (held out)", 40, 42),))
    shown = text(data_sheets(report), width=160)
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert "bills.jsonl 47,977 0 13 68.7 M 6.11 M 59.0 M 0.859 9.66 982 31,281 46,989 34.6 M" in rows
    assert "old (held out) (first 168) 168 2 0 95.6 K 15.7 K 22.1 K 0.229 1.39 116 508 0 0" in rows
    assert "Mix of 20,000 training tokens, in sequences of 512" in rows
    assert "a 75.0% 15.0 K 2.50 - -" in rows
    assert "together 100.0% 20.0 K 2.50 9 1,002" in rows
    assert "bills.jsonl, old (held out) 40 0.1% 42 25.0%" in rows
    narrow = text(data_sheets(report), width=80)
    assert max(map(len, narrow.splitlines())) <= 80


def test_without_a_tokenizer() -> None:
    report = DataReport(None, None, (TextStatistics("a", "a", "data", True, 1, 0, 3, 0, 0, None, ()),), (), ())
    assert text(data_sheets(report), width=80).splitlines()[2:5] == [
        "source  documents  repeated  bytes  words",
        "─────────────────────────────────────────",
        "a               1         0      3      0",
    ]
