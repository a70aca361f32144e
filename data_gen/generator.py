"""The generator: writes people, biographies and questions as parquet, with a manifest and a dataset card."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.card import dataset_card
from data_gen.facts import ATTRIBUTES, FROZEN_LOCALE, POOL_SIZES, DataRequestError, Pools, load_pools
from data_gen.manifest import FILE_NAME, FORMAT_VERSION, GENERATOR_VERSION, FileRecord, Manifest, PoolRecord
from data_gen.tables import Chunk, TableBuilder

_DICTIONARY_COLUMNS = ["first_name", "middle_name", "last_name", "gender", *ATTRIBUTES, "attribute", "answer"]
_ID_COLUMNS = ["person_id", "bio_index"]


def generate(
    out: Path,
    *,
    people: int = 200_000,
    bios: int = 5,
    seed: int = 0,
    locale: str = FROZEN_LOCALE,
    split_answers: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write people, `bios` biographies and six questions per person, into the new folder `out`.

    people, bios: counts above 0. A smaller set is the beginning of a larger one with the same seed.
    seed: >= 0. The same request gives the same bytes, for any number of workers, with the same package versions.
    locale: en_US uses the frozen pools; others draw their pools from faker. Sentences are always English.
    split_answers: people from this number on draw their attributes from the second half of each pool, those before from
        the first half; None: all draw from whole pools.
    workers: number of threads; None takes one per processor.
    progress: called with the number of written people and of all people.
    Returns the manifest, which is also in `out/manifest.json`. On any exception, Ctrl-C included, nothing is left.
    Raises DataRequestError, a ValueError, for a number out of range, an `out` that is not free or an unknown locale.
    """
    _check_at_least(1, people=people, bios=bios, workers=1 if workers is None else workers)
    _check_at_least(0, seed=seed)
    _check_free(out)
    pools = load_pools(locale, seed)
    if people > pools.names:
        raise DataRequestError(
            f"people {people}: locale {locale} has {pools.names} different full names; choose 1 to {pools.names}"
        )
    if split_answers is not None and not 1 <= split_answers < people:
        raise DataRequestError(f"split_answers {split_answers}: choose 1 to {people - 1}, a number of people before it")
    builder = TableBuilder.create(pools, people, bios, seed, split_answers)
    with _new_folder(out) as folder:
        characters = _write_tables(folder, builder, workers or os.cpu_count() or 1, progress)
        manifest = _describe(folder, pools, builder, characters, split_answers)
        (folder / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8", newline="\n")
        (folder / "README.md").write_text(dataset_card(manifest), encoding="utf-8", newline="\n")
    return manifest


def _check_at_least(least: int, **given: int) -> None:
    for name, number in given.items():
        if number < least:
            raise DataRequestError(f"{name} {number}: it must be {least} or more; choose a larger number")


def _check_free(out: Path) -> None:
    if out.is_dir():
        if any(out.iterdir()):
            raise DataRequestError(f"{out} already holds files; choose a new or an empty folder")
    elif out.exists():
        raise DataRequestError(f"{out} is a file; choose a new or an empty folder")
    for parent in out.absolute().parents:
        if parent.exists() and not parent.is_dir():
            raise DataRequestError(f"{out} lies below {parent}, which is a file; choose another folder")


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder to write into. It becomes `out` if the block ends without an exception, else it is removed.

    It is beside `out` or, if parents of `out` are missing, beside the uppermost missing one.
    """
    target = out.resolve()
    uppermost = target
    while not uppermost.parent.exists():
        uppermost = uppermost.parent
    temporary = uppermost.with_name(f".{uppermost.name}.{secrets.token_hex(4)}.partial")
    try:
        temporary.mkdir()
    except OSError as error:
        raise DataRequestError(f"{out} cannot be created: {error.strerror}; choose another folder") from error
    try:
        yield temporary
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_tables(
    folder: Path, builder: TableBuilder, workers: int, progress: Callable[[int, int], None] | None
) -> int:
    """Build the chunks in threads and write them in order. Returns the characters of all biographies."""
    done, characters = 0, 0
    with contextlib.ExitStack() as stack:
        writers: dict[str, pq.ParquetWriter] = {}
        executor = ThreadPoolExecutor(workers)
        # Ctrl-C drops the queued chunks and waits only for the running ones.
        stack.callback(executor.shutdown, cancel_futures=True)
        for chunk in _in_order(executor, builder, workers):
            for name, table in chunk.tables.items():
                if name not in writers:
                    writers[name] = stack.enter_context(_writer(folder / f"{name}.parquet", table.schema))
                writers[name].write_table(table, row_group_size=table.num_rows)
            done += chunk.people
            characters += chunk.characters
            if progress is not None:
                progress(done, len(builder.people))
    return characters


def _in_order(executor: ThreadPoolExecutor, builder: TableBuilder, workers: int) -> Iterator[Chunk]:
    """The chunks in order. At most one per worker, and the one being written, are in memory."""
    pending: deque[Future[Chunk]] = deque()
    for chunk in builder.chunks:
        pending.append(executor.submit(builder.build, chunk))
        if len(pending) > workers:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=[name for name in schema.names if name in _DICTIONARY_COLUMNS],
        write_statistics=[name for name in schema.names if name in _ID_COLUMNS],
    )


def _describe(
    folder: Path, pools: Pools, builder: TableBuilder, characters: int, split_answers: int | None
) -> Manifest:
    """The manifest of the tables in `folder`."""
    smaller = [f"{pool} {pools.sizes[pool]} of {size}" for pool, size in POOL_SIZES.items() if pools.sizes[pool] < size]
    people, bios = len(builder.people), builder.bios
    attribute_bits = pools.attribute_bits(parts=1 if split_answers is None else 2)
    name_bits = pools.name_bits(people)
    return Manifest(
        format_version=FORMAT_VERSION,
        generator_version=GENERATOR_VERSION,
        seed=builder.seed,
        locale=pools.locale,
        people=people,
        bios=bios,
        biographies=people * bios,
        sentences=people * bios * len(ATTRIBUTES),
        questions=people * len(ATTRIBUTES),
        characters=characters,
        people_per_row_group=builder.people_per_chunk,
        bits_per_person={
            "attributes": round(attribute_bits, 3),
            "name": round(name_bits, 3),
            "total": round(attribute_bits + name_bits, 3),
        },
        pools=PoolRecord(
            source="frozen" if pools.faker_version is None else "live",
            faker_version=pools.faker_version,
            sizes=pools.sizes,
            full_names=pools.names,
            note=f"Fewer are available for {pools.locale}: {', '.join(smaller)}." if smaller else "",
        ),
        versions={"numpy": np.__version__, "pyarrow": pa.__version__},
        files={path.name: _file_record(path) for path in sorted(folder.glob("*.parquet"))},
        split_answers=split_answers,
    )


def _file_record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(sha256=digest, rows=pq.read_metadata(path).num_rows)
