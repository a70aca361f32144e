"""The generator: same bytes for the same seed, no partial folders, a folder that other programs can open."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import ArrayLike

import data_gen
from data_gen import ATTRIBUTES, generate

FILES = ["README.md", "biographies.parquet", "manifest.json", "people.parquet", "questions.parquet"]
TABLES = ["biographies.parquet", "people.parquet", "questions.parquet"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("workers", [3, None])
def test_same_seed_same_bytes_for_any_number_of_workers(many: Path, tmp_path: Path, workers: int | None) -> None:
    generate(tmp_path / "out", people=11_000, bios=5, seed=7, workers=workers)
    assert contents(tmp_path / "out") == contents(many)
    assert [*contents(many)] == FILES


def test_another_seed_gives_other_people(generated: Any, tmp_path: Path) -> None:
    generate(tmp_path / "out", people=1_000, bios=5, seed=2)
    ours, theirs = contents(tmp_path / "out"), contents(generated.folder)
    assert all(ours[name] != theirs[name] for name in [*TABLES, "manifest.json"])


def test_a_smaller_set_is_the_beginning_of_a_larger_one(many: Path, tmp_path: Path) -> None:
    generate(tmp_path / "out", people=5_100, bios=5, seed=7)
    for name in TABLES:
        small, large = pq.read_table(tmp_path / "out" / name), pq.read_table(many / name)
        assert small.num_rows < large.num_rows
        assert small.equals(large.slice(0, small.num_rows))


def test_people_do_not_depend_on_the_number_of_biographies(generated: Any, tmp_path: Path) -> None:
    generate(tmp_path / "out", people=1_000, bios=1, seed=1)
    for name in ("people.parquet", "questions.parquet"):
        assert pq.read_table(tmp_path / "out" / name).equals(pq.read_table(generated.folder / name))


def test_row_groups_hold_the_same_people_in_every_file(many: Path) -> None:
    per_group = data_gen.read_manifest(many).people_per_row_group
    assert per_group == 5_000
    for name in TABLES:
        file = pq.ParquetFile(many / name)
        groups = [set(file.read_row_group(i, columns=["person_id"])[0].to_pylist()) for i in range(file.num_row_groups)]
        assert groups == [{*range(0, 5000)}, {*range(5000, 10_000)}, {*range(10_000, 11_000)}]


def test_column_types(many: Path) -> None:
    biographies = {name: pa.int32() for name in ("person_id", "bio_index")} | {"text": pa.string()}
    for attribute in ATTRIBUTES:
        biographies |= {f"{attribute}_start": pa.int32(), f"{attribute}_end": pa.int32()}
    assert pq.read_schema(many / "biographies.parquet") == pa.schema(biographies)
    names = ["first_name", "middle_name", "last_name", "full_name", "gender", *ATTRIBUTES]
    assert pq.read_schema(many / "people.parquet") == pa.schema(
        {"person_id": pa.int32(), **dict.fromkeys(names, pa.string())}
    )
    questions = {"person_id": pa.int32(), **dict.fromkeys(["attribute", "prompt", "answer"], pa.string())}
    assert pq.read_schema(many / "questions.parquet") == pa.schema(questions)


def uniform(items: ArrayLike, kinds: int) -> bool:
    """Whether the items pass as uniform draws among `kinds`: chi-square within five deviations of its mean."""
    _, counts = np.unique(np.asarray(items), return_counts=True)
    expected = counts.sum() / kinds
    chi_square = ((counts - expected) ** 2).sum() / expected + (kinds - len(counts)) * expected
    return len(counts) <= kinds and abs(chi_square - (kinds - 1)) < 5 * math.sqrt(2 * (kinds - 1))


def test_names_and_values_are_drawn_evenly(many: Path) -> None:
    people = pq.read_table(many / "people.parquet").to_pydict()
    months, days, years = zip(*(day.replace(",", "").split() for day in people["birthday"]), strict=True)
    drawn = {"month": (months, 12), "day": (days, 28), "year": (years, 200)}
    sizes = {"first_name": 400, "middle_name": 400, "last_name": 1000, "gender": 2}
    sizes |= {"birth_city": 200, "university": 300, "major": 100, "company": 263}
    drawn |= {name: (people[name], size) for name, size in sizes.items()}
    assert [name for name, (items, kinds) in drawn.items() if not uniform(items, kinds)] == []
    assert len(set(people["full_name"])) == 11_000
    assert {*map(int, years)} == {*range(1900, 2100)}
    assert {*map(int, days)} == {*range(1, 29)}


def test_attributes_are_drawn_independently(many: Path) -> None:
    people = pq.read_table(many / "people.parquet", columns=["gender", "major", "birth_city"]).to_pydict()
    assert uniform([*map("|".join, zip(people["gender"], people["major"], strict=True))], 200)
    assert uniform([*map("|".join, zip(people["major"], people["birth_city"], strict=True))], 20_000)


def test_uneven_draws_are_detected(many: Path) -> None:
    majors = pq.read_table(many / "people.parquet", columns=["major"])[0].to_pylist()
    first = majors[0]
    assert not uniform([first if i % 40 == 0 else major for i, major in enumerate(majors)], 100)
    assert not uniform([major for major in majors if major != first], 100)
    assert not uniform(np.arange(11_000) % 100, 100)  # too even for chance


def test_manifest_describes_the_folder(generated: Any) -> None:
    manifest = generated.manifest
    assert (manifest.people, manifest.bios, manifest.biographies) == (1_000, 5, 5_000)
    assert (manifest.sentences, manifest.questions, manifest.seed, manifest.locale) == (30_000, 6_000, 1, "en_US")
    assert manifest.characters == sum(len(biography["text"]) for biography in generated.biographies)
    assert (manifest.pools.source, manifest.pools.faker_version, manifest.pools.note) == ("frozen", None, "")
    assert manifest.pools.full_names == 400 * 400 * 1000
    bits = math.log2(200 * 12 * 28) + math.log2(200) + math.log2(300) + math.log2(100) + math.log2(263)
    assert manifest.bits_per_person["attributes"] == pytest.approx(bits, abs=1e-3) == pytest.approx(46.6, abs=0.02)
    names = math.log2(math.comb(400 * 400 * 1000, 1_000)) / 1_000
    assert manifest.bits_per_person["name"] == pytest.approx(names, abs=1e-3)
    assert manifest.bits_per_person["total"] == pytest.approx(bits + names, abs=2e-3)
    rows = {"people.parquet": 1_000, "biographies.parquet": 5_000, "questions.parquet": 6_000}
    assert manifest.files == {
        name: data_gen.FileRecord(hashlib.sha256((generated.folder / name).read_bytes()).hexdigest(), rows[name])
        for name in TABLES
    }


def test_manifest_of_a_live_locale(korean: Any) -> None:
    import faker

    pools = korean.manifest.pools
    assert (pools.source, pools.faker_version) == ("live", faker.VERSION)
    assert 0 < pools.sizes["city"] < 200
    assert f"city {pools.sizes['city']} of 200" in pools.note
    assert "ko_KR" in pools.note
    assert korean.manifest.bits_per_person["attributes"] < 46.5
    assert pools.note in (korean.folder / "README.md").read_text(encoding="utf-8")


def test_every_name_of_a_locale_can_be_used_and_no_more(tmp_path: Path) -> None:
    from data_gen.facts import load_pools

    names = load_pools("vi_VN", seed=2).names
    with pytest.raises(data_gen.DataRequestError, match=f"people {names + 1}: .* choose 1 to {names}$"):
        generate(tmp_path / "out", people=names + 1, bios=1, seed=2, locale="vi_VN")
    generate(tmp_path / "out", people=names, bios=1, seed=2, locale="vi_VN")
    assert len(set(pq.read_table(tmp_path / "out/people.parquet", columns=["full_name"])[0].to_pylist())) == names


def test_more_biographies_than_templates(tmp_path: Path) -> None:
    manifest = generate(tmp_path / "out", people=3, bios=120, seed=0)
    texts = pq.read_table(tmp_path / "out/biographies.parquet", columns=["text"])[0].to_pylist()
    assert manifest.biographies == len(set(texts)) == 360


def test_datasets_opens_every_config(generated: Any, tmp_path: Path) -> None:
    import datasets

    for config in ("people", "biographies", "questions"):
        loaded = datasets.load_dataset(str(generated.folder), config, cache_dir=str(tmp_path))
        assert [*loaded] == ["train"]
        assert loaded["train"].to_list() == getattr(generated, config)


def test_progress_counts_people(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    generate(tmp_path / "out", people=600, bios=100, workers=2, progress=lambda *call: calls.append(call))
    assert calls == [(250, 600), (500, 600), (600, 600)]


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("mine")
    return folder / "file"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "deeper" / "out"


def a_full_folder(folder: Path) -> Path:
    return a_file(folder).parent


def a_new_folder(folder: Path) -> Path:
    return folder / "new" / "out"


@pytest.mark.parametrize(
    ("place", "request_", "message"),
    [
        (a_new_folder, {"people": 0}, "people 0: it must be 1 or more"),
        (
            a_new_folder,
            {"people": 160_000_001},
            "people 160000001: locale en_US has 160000000 .* choose 1 to 160000000",
        ),
        (a_new_folder, {"bios": 0}, "bios 0: it must be 1 or more"),
        (a_new_folder, {"workers": 0}, "workers 0: it must be 1 or more"),
        (a_new_folder, {"seed": -1}, "seed -1: it must be 0 or more"),
        (a_new_folder, {"locale": "xx_YY"}, "locale 'xx_YY' is not one of .* ko_KR .* lists them"),
        (a_file, {}, "file is a file; choose a new or an empty folder"),
        (a_full_folder, {}, "already holds files; choose a new or an empty folder"),
        (below_a_file, {}, "file, which is a file; choose another folder"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(
    tmp_path: Path, place: Callable[[Path], Path], request_: dict[str, Any], message: str
) -> None:
    out = place(tmp_path)
    before = [(path.name, path.read_bytes()) for path in tmp_path.iterdir()]
    with pytest.raises(ValueError, match=message) as caught:
        generate(out, **{"people": 10, **request_})
    assert "\n" not in str(caught.value)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("exists", [True, False])
def test_interrupted_leaves_nothing(tmp_path: Path, error: type[BaseException], exists: bool) -> None:
    out = tmp_path / "new" / "out"
    if exists:
        out.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))

    def interrupt(done: int, total: int) -> None:
        assert sorted(tmp_path.rglob("*")) != before  # something is being written
        if done > 250:
            raise error

    with pytest.raises(error):
        generate(out, people=800, bios=100, workers=2, progress=interrupt)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_taken_over(tmp_path: Path) -> None:
    generate(tmp_path, people=2)
    assert [*contents(tmp_path)] == FILES


def test_manifest_is_read_back(tmp_path: Path) -> None:
    manifest = generate(tmp_path / "out", people=2)
    assert data_gen.read_manifest(tmp_path / "out") == manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "because it has no manifest.json; give the folder"),
        ("no json", "is not the manifest of generated biographies; give the folder"),
        ("[]", "is not the manifest of generated biographies; give the folder"),
        ('{"format_version": 1}', "is not the manifest of generated biographies; give the folder"),
        ('{"format_version": 2}', "has format version 2 and only 1 can be read; generate it again"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(data_gen.DataRequestError, match=message):
        data_gen.read_manifest(tmp_path)


def test_split_answers_have_no_value_in_common(generated: Any, tmp_path: Path) -> None:
    manifest = generate(tmp_path / "out", people=1_000, bios=1, seed=1, split_answers=600)
    assert data_gen.read_manifest(tmp_path / "out") == manifest
    assert manifest.bits_per_person["attributes"] == pytest.approx(
        generated.manifest.bits_per_person["attributes"] - 5, abs=0.02
    )
    people = pq.read_table(tmp_path / "out" / "people.parquet")
    whole = pq.read_table(generated.folder / "people.parquet")
    assert people["full_name"].equals(whole["full_name"])
    for attribute in ATTRIBUTES:
        values = people[attribute].to_pylist()
        before, after = set(values[:600]), set(values[600:])
        assert min(len(before), len(after)) > 25
        assert not before & after
    companies = dict(zip(people["company"].to_pylist(), people["company_city"].to_pylist(), strict=True))
    assert list(map(companies.get, people["company"].to_pylist())) == people["company_city"].to_pylist()
    for split in (0, 1_000):
        with pytest.raises(data_gen.DataRequestError, match=f"^split_answers {split}: choose 1 to 999"):
            generate(tmp_path / "other", people=1_000, split_answers=split)
