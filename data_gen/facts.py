"""Pools of names and attribute values, frozen or live from faker, and the random draw of people from them."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ATTRIBUTES = ("birthday", "birth_city", "university", "major", "company", "company_city")
GENDERS = ("female", "male")

FROZEN_LOCALE = "en_US"
POOL_SIZES = {"feminine": 200, "masculine": 200, "middle": 400, "last": 1000, "city": 200, "company": 263}

_FOLDER = Path(__file__).parent / "pools"
_MONTHS = ["January", "February", "March", "April", "May", "June", "July"]
_MONTHS += ["August", "September", "October", "November", "December"]
BIRTHDAYS = tuple(
    f"{month} {day}, {year}" for year, month, day in itertools.product(range(1900, 2100), _MONTHS, range(1, 29))
)
# A live pool counts as exhausted after this many consecutive draws without a new item.
_PATIENCE_DRAWS = 4000


class DataRequestError(ValueError):
    """A mistake in the request. The message is one line: what was given, what is allowed, what to do."""


@dataclass(frozen=True)
class Pools:
    """The pools of names and values. No pool has a duplicate.

    company_city: index in `city` of each company's city. faker_version: None for frozen pools.
    """

    locale: str
    faker_version: str | None
    feminine: tuple[str, ...]
    masculine: tuple[str, ...]
    middle: tuple[str, ...]
    last: tuple[str, ...]
    city: tuple[str, ...]
    university: tuple[str, ...]
    major: tuple[str, ...]
    company: tuple[str, ...]
    company_city: tuple[int, ...]

    @property
    def first(self) -> tuple[str, ...]:
        """Feminine names, then masculine ones."""
        return self.feminine + self.masculine

    @property
    def names(self) -> int:
        """Number of full names `First Middle Last`."""
        return len(self.first) * len(self.middle) * len(self.last)

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """The possible values of each attribute, in the order of ATTRIBUTES."""
        cities = self.city
        pools = (BIRTHDAYS, cities, self.university, self.major, self.company, cities)
        return dict(zip(ATTRIBUTES, pools, strict=True))

    @property
    def sizes(self) -> dict[str, int]:
        """Number of items in each pool."""
        pools = ("feminine", "masculine", "middle", "last", "city", "university", "major", "company")
        return {pool: len(getattr(self, pool)) for pool in pools}

    def attribute_bits(self, *, parts: int = 1) -> float:
        """Bits of one person's attributes. The company determines the company city, which adds none.

        parts: number of parts of each pool, of which the person has one.
        """
        independent = (values for attribute, values in self.values.items() if attribute != "company_city")
        return sum(math.log2(len(values) // parts) for values in independent)

    def name_bits(self, people: int) -> float:
        """Bits per person of the choice of `people` names among all full names: log2(C(names, people)) / people.

        The names count as a set, because the numbering of people is arbitrary. A single name would take log2(names)
        bits, 27.3 for the frozen pools.
        """
        log_choices = math.lgamma(self.names + 1) - math.lgamma(people + 1) - math.lgamma(self.names - people + 1)
        return log_choices / math.log(2) / people


def load_pools(locale: str, seed: int) -> Pools:
    """The frozen pools for en_US, else pools drawn from faker with `seed`. Universities and majors are always frozen.

    Raises DataRequestError for a locale that faker does not have.
    """
    university, major = _read_pool("universities"), _read_pool("majors")
    if locale != FROZEN_LOCALE:
        return _live_pools(locale, seed, university, major)
    city = _read_pool("cities")
    companies = [line.split("\t") for line in _read_pool("companies", suffix="tsv")]
    return Pools(
        locale=locale,
        faker_version=None,
        feminine=_read_pool("first_names_female"),
        masculine=_read_pool("first_names_male"),
        middle=_read_pool("middle_names"),
        last=_read_pool("last_names"),
        city=city,
        university=university,
        major=major,
        company=tuple(company for company, _ in companies),
        company_city=tuple(city.index(company_city) for _, company_city in companies),
    )


def _read_pool(name: str, suffix: str = "txt") -> tuple[str, ...]:
    return tuple((_FOLDER / f"{name}.{suffix}").read_text(encoding="utf-8").splitlines())


def _live_pools(locale: str, seed: int, university: tuple[str, ...], major: tuple[str, ...]) -> Pools:
    import faker
    from faker.config import AVAILABLE_LOCALES

    if locale not in AVAILABLE_LOCALES:
        raise DataRequestError(
            f"locale {locale!r} is not one of the {len(AVAILABLE_LOCALES)} of faker {faker.VERSION}, such as "
            "en_US, ko_KR or de_DE; `python -c 'from faker.config import AVAILABLE_LOCALES as a; print(*a)'` lists them"
        )
    # Names are drawn without weights, to get rare ones too. Companies need weights: es_CL fails without them.
    names: Any = faker.Faker(locale, use_weighting=False)
    fake: Any = faker.Faker(locale)
    names.seed_instance(seed)
    fake.seed_instance(seed)
    for provider in fake.providers:
        if isinstance(getattr(provider, "cities", None), list):
            provider.cities = sorted(provider.cities)  # it_IT builds it from a set, whose order changes per process
    feminine, masculine = _divide_shared(
        distinct(names.first_name_female, POOL_SIZES["feminine"], key=_one_word),
        distinct(names.first_name_male, POOL_SIZES["masculine"], key=_one_word),
    )
    middle = feminine + masculine  # most locales have no middle names; a second first name takes their place
    if hasattr(names, "middle_name"):
        middle = tuple(distinct(names.middle_name, POOL_SIZES["middle"], key=_one_word))
    city = distinct(fake.city, POOL_SIZES["city"])
    company = distinct(fake.company, POOL_SIZES["company"])
    draws = np.random.default_rng(seed).integers(len(city), size=len(company))
    return Pools(
        locale=locale,
        faker_version=faker.VERSION,
        feminine=feminine,
        masculine=masculine,
        middle=middle,
        last=tuple(distinct(names.last_name, POOL_SIZES["last"])),
        city=tuple(city),
        university=university,
        major=major,
        company=tuple(company),
        company_city=tuple(draws.tolist()),
    )


def distinct(draw: Callable[[], str], count: int, key: Callable[[str], str | None] = str) -> list[str]:
    """`count` results of `draw` with different keys, in the order drawn; fewer if `draw` is exhausted.

    Runs of white space become one space. A key of None rejects the draw.
    """
    items: dict[str | None, str] = {None: ""}  # so that a key of None never counts as new
    misses = 0
    while len(items) <= count and misses < _PATIENCE_DRAWS:
        item = " ".join(draw().split())
        misses += 1
        if item and key(item) not in items:
            items[key(item)] = item
            misses = 0
    return list(items.values())[1:]


def _one_word(name: str) -> str | None:
    # If first and middle names are one word each, different triples always have different full names.
    return None if " " in name else name


def _divide_shared(feminine: list[str], masculine: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give each name in both lists to one of them, alternately, because the first name determines the pronoun."""
    shared = [name for name in feminine if name in set(masculine)]
    to_masculine, to_feminine = set(shared[1::2]), set(shared[::2])
    return (
        tuple(name for name in feminine if name not in to_masculine),
        tuple(name for name in masculine if name not in to_feminine),
    )


@dataclass(frozen=True)
class People:
    """The drawn people as indices into the pools.

    first, middle, last: (people,), into the pools of these names.
    values: (people, 6), into the concatenated values of all attributes in the order of ATTRIBUTES.
    """

    first: NDArray[np.int32]
    middle: NDArray[np.int32]
    last: NDArray[np.int32]
    values: NDArray[np.int32]

    def __len__(self) -> int:
        """Number of people."""
        return len(self.first)


def draw_people(
    pools: Pools, people: int, seeds: np.random.SeedSequence, *, split_answers: int | None = None
) -> People:
    """Draw people with distinct names and independent, uniform attributes. Fewer people are a prefix of more.

    split_answers: people from this one on have the second half of each pool, those before the first; None: all have
        whole pools.
    """
    name_seed, *value_seeds = seeds.spawn(1 + len(ATTRIBUTES))
    names = _draw_distinct(pools.names, people, np.random.default_rng(name_seed))
    values = {
        attribute: np.random.default_rng(seed).integers(len(pool), size=people, dtype=np.int32)
        for (attribute, pool), seed in zip(pools.values.items(), value_seeds, strict=True)
    }
    if split_answers is not None:
        later = np.arange(people) >= split_answers
        values = {name: _in_half(value, len(pools.values[name]), later) for name, value in values.items()}
    company_city = np.array(pools.company_city, np.int32)[values["company"]]
    # The halves have different companies, so that a company still determines its city.
    values["company_city"] = company_city if split_answers is None else _in_half(company_city, len(pools.city), later)
    bases = np.cumsum([0, *(len(pool) for pool in pools.values.values())])[:-1]
    first, rest = np.divmod(names, len(pools.middle) * len(pools.last))
    middle, last = np.divmod(rest, len(pools.last))
    return People(
        first=first.astype(np.int32),
        middle=middle.astype(np.int32),
        last=last.astype(np.int32),
        values=(np.stack([values[attribute] for attribute in ATTRIBUTES], axis=1) + bases).astype(np.int32),
    )


def _in_half(index: NDArray[np.int32], size: int, later: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Indices into a pool of this size, moved into its first half, or where `later` into its second."""
    half = size // 2
    return np.where(later, half + index % (size - half), index % half).astype(np.int32)


def _draw_distinct(limit: int, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`count` distinct numbers below `limit` in random order: one stream of draws without its repetitions."""
    drawn = np.empty(0, np.int64)
    while len(drawn) < count:
        drawn = np.concatenate([drawn, generator.integers(limit, size=count)])
        _, first_seen = np.unique(drawn, return_index=True)
        drawn = drawn[np.sort(first_seen)]
    return drawn[:count]


def value_array(pools: Pools) -> pa.StringArray:
    """The concatenated values of all attributes in the order of ATTRIBUTES, as indexed by `People.values`."""
    return pa.array(itertools.chain.from_iterable(pools.values.values()), pa.string())
