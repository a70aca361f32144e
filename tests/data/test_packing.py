"""The window and source of a run's i-th example, token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scale_cli.data.packing import Group, Windows, interleave
from tests.data.chunks import group_of, groups_of, packed_plainly, random_documents
from tests.helpers import refusal

LENGTH = 16


def windows_of(group: Group, *, length: int = LENGTH, seed: tuple[int, int] = (3, 0)) -> Windows:
    return Windows("--data x", group, length, seed)


def tokens_of(windows: Windows, *indices: int) -> list[list[int]]:
    return windows.windows(np.array(indices))[0].tolist()


@pytest.mark.parametrize("seed", [0, 3, 2**32 - 1])
def test_files_are_packed_as_ever(seed: int, tmp_path: Path) -> None:
    """The windows are those of older records, which were made before chunks existed."""
    documents = random_documents(1, 90)
    groups = {
        "one": group_of(tmp_path / "one", documents),
        "three": group_of(tmp_path / "three", documents[:17], documents[17:80], documents[80:]),
        "empty": group_of(tmp_path / "empty", documents, []),
    }
    wanted = [window for epoch in range(4) for window in packed_plainly(documents, LENGTH, [seed, epoch])]
    assert len(wanted) > 100
    for group in groups.values():
        found = tokens_of(windows_of(group, seed=(seed, 0)), *range(len(wanted)))
        assert found == wanted


def test_another_source_has_another_order(tmp_path: Path) -> None:
    documents = random_documents(1, 90)
    group = group_of(tmp_path / "a", documents)
    second = tokens_of(windows_of(group, seed=(3, 1)), *range(20))
    assert second == packed_plainly(documents, LENGTH, [3, 0, 1])[:20]
    assert second != tokens_of(windows_of(group, seed=(3, 0)), *range(20))


def test_a_stream_is_packed_chunk_by_chunk_and_begins_anew(tmp_path: Path) -> None:
    parts = [random_documents(seed, count) for seed, count in ((1, 40), (2, 1), (3, 25), (4, 30))]
    assert sum(map(len, parts[1])) < LENGTH  # a chunk without a window
    wanted = [
        window
        for epoch in range(3)
        for number, part in enumerate(parts)
        for window in packed_plainly(part, LENGTH, [3, epoch, 0, number])
    ]
    stream = windows_of(groups_of(tmp_path / "a", *parts))
    assert tokens_of(stream, *range(len(wanted))) == wanted
    assert len({tuple(map(tuple, wanted[start : start + 5])) for start in (0, len(wanted) // 3)}) == 2
    backwards = [*reversed(range(len(wanted)))]
    assert tokens_of(windows_of(groups_of(tmp_path / "b", *parts)), *backwards) == wanted[::-1]


def test_a_stream_is_read_no_further_than_it_is_needed(tmp_path: Path) -> None:
    parts = [random_documents(seed, 40) for seed in range(4)]
    group, asked = groups_of(tmp_path / "a", *parts), set()

    def watched(number: int) -> object:
        asked.add(number)
        return group(number)

    stream = windows_of(watched)  # type: ignore[arg-type]
    first = sum(map(len, parts[0])) // LENGTH
    tokens_of(stream, 0, first - 1)
    assert asked == {0}
    tokens_of(stream, first)
    assert asked == {0, 1}


def test_epochs_are_known_once_an_epoch_is_read(tmp_path: Path) -> None:
    parts = (random_documents(1, 60), random_documents(2, 60))
    size = sum(sum(map(len, part)) // LENGTH for part in parts)
    stream = windows_of(groups_of(tmp_path / "a", *parts))
    tokens_of(stream, size - 1)
    assert stream.epochs(size) is None
    tokens_of(stream, size)
    assert stream.epochs(size + 1) == (size + 1) / size
    file = Windows("--data x", group_of(tmp_path / "b", parts[0]), LENGTH, (3, 0), groups=1)
    file.locate(0)
    assert file.epochs(1) == 1 / (sum(map(len, parts[0])) // LENGTH)


def test_positions_begin_anew_with_each_document_and_window(tmp_path: Path) -> None:
    windows = windows_of(group_of(tmp_path / "a", random_documents(1, 60)))
    tokens, positions = windows.windows(np.arange(50))
    borders = 0
    for row, row_positions in zip(tokens.tolist(), positions.tolist(), strict=True):
        position = 0
        for column, token in enumerate(row):
            assert row_positions[column] == position
            borders += column > 0 and position == 0
            position = 0 if token == 0 else position + 1  # a zero ends a document
    assert 100 < borders == windows.borders(50)
    assert windows.borders(0) == 0
    stream = windows_of(
        groups_of(tmp_path / "b", random_documents(1, 30), random_documents(2, 1), random_documents(3, 9))
    )
    for count in (1, 7, 40):
        assert stream.borders(count) == (stream.windows(np.arange(count))[1][:, 1:] == 0).sum()


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    group = group_of(tmp_path / "a", [[1, 2, 0], [3, 0]])
    assert len(tokens_of(windows_of(group, length=5), 0, 1)) == 2
    for wrong, message in (
        (windows_of(group, length=6), "--seq-length 6: --data x has 5 tokens, less than one sequence"),
        (windows_of(group_of(tmp_path / "b", []), length=6), "--data x: there is no text in it"),
        (windows_of(groups_of(tmp_path / "c", [])), "--data x: there is no text in it"),
    ):
        assert refusal(wrong.locate, 0) == message


@pytest.mark.parametrize("weights", [(1.0,), (0.95, 0.05), (2, 3, 5), (1e-3, 1, 1, 7)])
def test_sources_are_mixed_by_their_weights_all_along(weights: tuple[float, ...]) -> None:
    total = 3000
    sources, numbers = interleave(weights, total)
    assert len(sources) == len(numbers) == total
    shares = np.array(weights) / sum(weights)
    for number, share in enumerate(shares):
        taken = np.cumsum(sources == number)
        assert np.abs(taken - share * np.arange(1, total + 1)).max() <= 1 + len(weights) / 2
        assert numbers[sources == number].tolist() == [*range(taken[-1])]  # in its own order, none left out
    for shorter in (0, 1, 17, 2999):  # a longer run begins like a shorter one
        for longer, less in zip((sources, numbers), interleave(weights, shorter), strict=True):
            assert longer[:shorter].tolist() == less.tolist()
