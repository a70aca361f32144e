"""The content of the rows: every fact at its position, worded by a template, and nothing else."""

import collections
import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from data_gen import ATTRIBUTES
from data_gen.sentences import load_templates

Row = dict[str, Any]
PRONOUNS = {
    "female": {"they": "she", "them": "her", "their": "her", "theirs": "hers", "themself": "herself"},
    "male": {"they": "he", "them": "him", "their": "his", "theirs": "his", "themself": "himself"},
}


def filled(template: str, gender: str) -> str:
    for slot, pronoun in PRONOUNS[gender].items():
        template = template.replace(f"{{{slot}}}", pronoun)
        template = template.replace(f"{{{slot.capitalize()}}}", pronoun.capitalize())
    return template


WORDINGS = {
    (attribute, gender, filled(template, gender)): template
    for attribute in ATTRIBUTES
    for template in load_templates(attribute)
    for gender in PRONOUNS
}


def told(biography: Row, person: Row) -> list[tuple[str, str | None]]:
    """The attributes in the order of the sentences, each with its template, None if no template matches."""
    order = sorted(ATTRIBUTES, key=lambda attribute: int(biography[f"{attribute}_start"]))
    found = []
    position = 0
    for attribute, sentence in itertools.zip_longest(order, biography["text"].split(". ")):
        if attribute is None or sentence is None:
            return []
        sentence += "." * (not sentence.endswith("."))
        start, end = (biography[f"{attribute}_{side}"] - position for side in ("start", "end"))
        masked = f"{sentence[:start]}{{value}}{sentence[end:]}".replace(person["full_name"], "{name}")
        found.append((attribute, WORDINGS.get((attribute, person["gender"], masked))))
        position += len(sentence) + 1
    return found


def violations(people: list[Row], biographies: list[Row]) -> set[str]:
    """The names of the properties that these rows violate."""
    broken = set()
    if len({person["full_name"] for person in people}) < len(people):
        broken.add("names are unique")
    if any(p["full_name"] != f"{p['first_name']} {p['middle_name']} {p['last_name']}" for p in people):
        broken.add("the full name is put together from the three names")
    if len({(p["company"], p["company_city"]) for p in people}) > len({p["company"] for p in people}):
        broken.add("a company has one city")
    used: dict[tuple[int, str], list[str | None]] = collections.defaultdict(list)
    for biography in biographies:
        person = people[biography["person_id"]]
        for attribute in ATTRIBUTES:
            start, end = biography[f"{attribute}_start"], biography[f"{attribute}_end"]
            if biography["text"][start:end] != person[attribute]:
                broken.add("spans show the values")
        sentences = told(biography, person)
        if sum(template is not None for _, template in sentences) != len(ATTRIBUTES):
            broken.add("six sentences of ours, with name and pronouns")
        for attribute, template in sentences:
            used[biography["person_id"], attribute].append(template)
    if any(len(set(templates)) < len(templates) for templates in used.values()):
        broken.add("a person's templates differ")
    return broken


def test_rows_keep_every_promise(generated: Any) -> None:
    assert len(generated.biographies) == 5_000
    assert [(b["person_id"], b["bio_index"]) for b in generated.biographies] == [
        *itertools.product(range(1000), range(5))
    ]
    assert violations(generated.people, generated.biographies) == set()


def test_korean_rows_keep_every_promise(korean: Any) -> None:
    assert not korean.people[0]["full_name"].isascii()
    assert violations(korean.people, korean.biographies) == set()


def shift_a_span(people: list[Row], biographies: list[Row]) -> None:
    biographies[3]["company_start"] += 1


def swap_a_gender(people: list[Row], biographies: list[Row]) -> None:
    people[0]["gender"] = {"female": "male", "male": "female"}[people[0]["gender"]]


def shorten_a_name(people: list[Row], biographies: list[Row]) -> None:
    text, name = biographies[4]["text"], people[0]["full_name"]
    biographies[4]["text"] = text.replace(name, "X" * len(name), 1)


def drop_the_last_sentence(people: list[Row], biographies: list[Row]) -> None:
    biographies[0]["text"] = biographies[0]["text"].rsplit(". ", 1)[0] + "."


def repeat_a_biography(people: list[Row], biographies: list[Row]) -> None:
    biographies[1] = biographies[0]


def move_an_employee(people: list[Row], biographies: list[Row]) -> None:
    people[0]["company"], people[0]["company_city"] = people[1]["company"], "Nowhere, ZZ"


def repeat_a_name(people: list[Row], biographies: list[Row]) -> None:
    people[0] = people[1] | {"person_id": 0}


@pytest.mark.parametrize(
    ("spoil", "promise"),
    [
        (shift_a_span, "spans show the values"),
        (swap_a_gender, "six sentences of ours, with name and pronouns"),
        (shorten_a_name, "six sentences of ours, with name and pronouns"),
        (drop_the_last_sentence, "six sentences of ours, with name and pronouns"),
        (repeat_a_biography, "a person's templates differ"),
        (move_an_employee, "a company has one city"),
        (repeat_a_name, "names are unique"),
    ],
)
def test_a_violated_property_is_detected(
    generated: Any, spoil: Callable[[list[Row], list[Row]], None], promise: str
) -> None:
    people, biographies = copy.deepcopy(generated.people[:2]), copy.deepcopy(generated.biographies[:10])
    assert violations(people, biographies) == set()
    spoil(people, biographies)
    assert promise in violations(people, biographies)


def test_order_of_the_attributes_varies(generated: Any) -> None:
    orders = collections.Counter(
        tuple(attribute for attribute, _ in told(biography, generated.people[biography["person_id"]]))
        for biography in generated.biographies
    )
    assert len(orders) > 700  # of 6! = 720, each seen 7 times on average
    assert max(orders.values()) < 30


def test_questions(generated: Any) -> None:
    keys = [(question["person_id"], question["attribute"]) for question in generated.questions]
    assert keys == [*itertools.product(range(1000), ATTRIBUTES)]
    for question in generated.questions:
        person = generated.people[question["person_id"]]
        assert question["answer"] == f" {person[question['attribute']]}"
    name = generated.people[0]["full_name"]
    assert [question["prompt"] for question in generated.questions[:6]] == [
        f"What is the birth date of {name}?\nAnswer:",
        f"What is the birth city of {name}?\nAnswer:",
        f"Which university did {name} attend?\nAnswer:",
        f"What did {name} major in?\nAnswer:",
        f"Which company does {name} work for?\nAnswer:",
        f"In which city does {name} work?\nAnswer:",
    ]
