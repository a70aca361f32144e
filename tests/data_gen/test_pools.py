"""The pools of names and values, and the sentence templates: number, cleanness and origin."""

import re
import subprocess
import sys
from pathlib import Path

import faker
import numpy as np
import pytest

import data_gen
from data_gen.build_pools import build_pools
from data_gen.facts import Pools, draw_people, load_pools
from data_gen.sentences import QUESTIONS, check_template, load_templates, split_template

FOLDER = Path(data_gen.__file__).parent / "pools"
SIZES = {"feminine": 200, "masculine": 200, "middle": 400, "last": 1000}
SIZES |= {"city": 200, "university": 300, "major": 100, "company": 263}


def unclean(pool: tuple[str, ...]) -> list[str]:
    """Items with stray white space, and items that differ from another one in case only or not at all."""
    folded = [item.casefold() for item in pool]
    return [item for item in pool if item != " ".join(item.split()) or folded.count(item.casefold()) > 1]


def repeated_beginnings(pool: tuple[str, ...]) -> list[str]:
    words = [re.split(r"\W", item)[0] for item in pool]
    return [word for word in words if words.count(word) > 1]


@pytest.mark.parametrize("pool", SIZES)
def test_frozen_pools(pool: str) -> None:
    items = getattr(load_pools("en_US", seed=0), pool)
    assert len(items) == SIZES[pool]
    assert unclean(items) == []
    if pool in ("city", "university", "major", "company"):
        assert repeated_beginnings(items) == []


def test_unclean_pools_are_detected() -> None:
    assert unclean(("Ann", "ann", "Bob ", "Carl  Otto", "Dora")) == ["Ann", "ann", "Bob ", "Carl  Otto"]
    assert repeated_beginnings(("Lee-Wu", "Lee Group", "Wu, Lee and Sons")) == ["Lee", "Lee"]


def test_first_and_middle_names_are_one_word_and_of_one_gender() -> None:
    for locale in ("en_US", "ko_KR", "ja_JP", "ru_RU", "es_CL", "vi_VN"):
        pools = load_pools(locale, seed=0)
        assert not set(pools.feminine) & set(pools.masculine)
        assert not [name for name in (*pools.first, *pools.middle) if " " in name]
        assert min(pools.sizes.values()) > 1


def test_frozen_pools_are_what_the_script_makes(tmp_path: Path) -> None:
    build_pools(tmp_path)
    frozen_with = re.search(r"faker ([\d.]+)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert frozen_with is not None
    if frozen_with[1] != faker.VERSION:
        pytest.skip(f"the pools were made with faker {frozen_with[1]}, this is {faker.VERSION}")
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes()


def test_live_pools_follow_the_seed() -> None:
    assert load_pools("de_DE", seed=1) == load_pools("de_DE", seed=1)
    assert load_pools("de_DE", seed=1) != load_pools("de_DE", seed=2)


def test_live_pools_do_not_follow_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """faker builds the Italian cities from a set of strings, whose order differs between processes."""
    from faker.providers.address.it_IT import Provider

    before = load_pools("it_IT", seed=1)
    monkeypatch.setattr(Provider, "cities", Provider.cities[::-1])
    assert load_pools("it_IT", seed=1) == before


def test_a_name_of_both_genders_gets_one() -> None:
    pools = load_pools("am_ET", seed=0)  # a locale that faker has no names for
    assert pools.sizes["feminine"] + pools.sizes["masculine"] == len(set(pools.first))


def test_names_are_drawn_without_repetition_to_the_last() -> None:
    letters = tuple("abcdefgh")
    one = ("x",)
    pools = Pools("none", None, letters[:4], letters[4:], letters, letters, one, one, one, one, (0,))
    people = draw_people(pools, pools.names, np.random.SeedSequence(0))
    assert len({*zip(people.first.tolist(), people.middle.tolist(), people.last.tolist(), strict=True)}) == 8**3
    fewer = draw_people(pools, 100, np.random.SeedSequence(0))
    assert (fewer.last == people.last[:100]).all()


@pytest.mark.parametrize("attribute", data_gen.ATTRIBUTES)
def test_templates(attribute: str) -> None:
    templates = load_templates(attribute)
    assert len(set(templates)) == 50
    assert sum(template.endswith("{value}.") for template in templates) < 45
    assert sum(template.index("{value}") < template.index("{name}") for template in templates) >= 5
    assert not [template for template in templates if re.search(r"\ban? \{value\}", template)]
    assert QUESTIONS[attribute].count("{name}") == 1


def test_every_pronoun_is_used() -> None:
    text = " ".join(template for attribute in data_gen.ATTRIBUTES for template in load_templates(attribute))
    assert set(re.findall(r"\{(\w+)\}", text)) >= {"they", "them", "their", "theirs", "themself", "They", "Their"}


@pytest.mark.parametrize(
    "template",
    [
        "{name} was born.",
        "{name} and {name} were born on {value}.",
        "{name} was born on {value}",
        "{name} was born on {value} in {place}.",
        "{name}  was born on {value}.",
        " {name} was born on {value}.",
        "{name} was born on {value}}.",
        "{name} was born on {value} with {}.",
    ],
)
def test_malformed_templates_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="template "):
        check_template(template)


def test_templates_are_split_around_name_and_value() -> None:
    template = "{They} chose {value}, so {name} calls it {theirs}."
    assert split_template(template, "female") == (("She chose ", ", so ", " calls it hers."), False)
    assert split_template(template, "male") == (("He chose ", ", so ", " calls it his."), False)
    assert split_template("{name}: {value}.", "male") == (("", ": ", "."), True)


def test_import_is_light() -> None:
    program = "import data_gen, sys; print({'torch', 'faker', 'datasets', 'scale_cli'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"
