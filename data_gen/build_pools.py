"""Builds the frozen pools from faker's en_US data: `python -m data_gen.build_pools OUT`.

It was run once. The files are in `data_gen/pools/`, so that the biographies do not change with faker's version.
"""

import argparse
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faker
from faker.providers.person.en_US import Provider as PersonProvider

from data_gen.facts import FROZEN_LOCALE, POOL_SIZES, distinct

_SEED = 0
_README = """\
# Frozen pools

One item per line, UTF-8. These files are part of the data format: the same seed gives the same biographies only if they
do not change. Never edit or sort them without raising `GENERATOR_VERSION`.

| file | items | from |
| --- | --- | --- |
| `first_names_female.txt`, `first_names_male.txt` | 200 + 200 | faker, names of one gender only |
| `middle_names.txt` | 400 | faker, those first that are not first names here |
| `last_names.txt` | 1000 | faker |
| `cities.txt` | 200 | faker, `City, ST`; one word each, so that no two begin alike |
| `companies.tsv` | 263 | faker, company and its city; no two begin with the same word |
| `universities.txt` | 300 | our own, invented; no two begin with the same word |
| `majors.txt` | 100 | our own; no two begin with the same word |

Distinct beginnings matter because the benchmark scores the first token of an answer.

The files from faker were made once by `python -m data_gen.build_pools OUT` (locale {locale}, faker {version}).
"""


def build_pools(out: Path) -> None:
    """Write the pools from faker, and their README, into the folder `out`."""
    generator = random.Random(_SEED)
    fake: Any = faker.Faker(FROZEN_LOCALE, use_weighting=False)
    fake.seed_instance(_SEED)

    female, male = set(PersonProvider.first_names_female), set(PersonProvider.first_names_male)
    first_female = generator.sample(sorted(female - male), POOL_SIZES["feminine"])
    first_male = generator.sample(sorted(male - female), POOL_SIZES["masculine"])
    first = {*first_female, *first_male}
    spare = sorted((female | male) - first)
    middle = spare + generator.sample(sorted(first), POOL_SIZES["middle"] - len(spare))
    last = generator.sample(sorted(set(PersonProvider.last_names)), POOL_SIZES["last"])
    city_names = distinct(fake.city, POOL_SIZES["city"], key=lambda city: None if " " in city else city)
    cities = sorted(f"{city}, {fake.state_abbr(False, False)}" for city in city_names)  # no territories
    companies = distinct(fake.company, POOL_SIZES["company"], key=lambda company: re.split(r"\W", company)[0])

    out.mkdir(parents=True, exist_ok=True)
    _write(out / "first_names_female.txt", sorted(first_female))
    _write(out / "first_names_male.txt", sorted(first_male))
    _write(out / "middle_names.txt", sorted(middle))
    _write(out / "last_names.txt", sorted(last))
    _write(out / "cities.txt", cities)
    _write(out / "companies.tsv", (f"{company}\t{generator.choice(cities)}" for company in sorted(companies)))
    _write(out / "README.md", [_README.format(locale=FROZEN_LOCALE, version=faker.VERSION).rstrip()])


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the frozen pools made from faker's en_US data.")
    parser.add_argument("out", type=Path, help="folder to write into")
    build_pools(parser.parse_args().out)
