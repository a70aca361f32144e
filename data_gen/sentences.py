"""The wording of questions and sentence templates: loading, checking and splitting templates at their slots."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_gen.facts import ATTRIBUTES, GENDERS

TEMPLATES_PER_ATTRIBUTE = 50

QUESTIONS = {
    "birthday": "What is the birth date of {name}?",
    "birth_city": "What is the birth city of {name}?",
    "university": "Which university did {name} attend?",
    "major": "What did {name} major in?",
    "company": "Which company does {name} work for?",
    "company_city": "In which city does {name} work?",
}
PROMPT_END = "\nAnswer:"

_PRONOUNS = {
    "female": {"they": "she", "them": "her", "their": "her", "theirs": "hers", "themself": "herself"},
    "male": {"they": "he", "them": "him", "their": "his", "theirs": "his", "themself": "himself"},
}
PRONOUNS = {
    gender: slots | {slot.capitalize(): pronoun.capitalize() for slot, pronoun in slots.items()}
    for gender, slots in _PRONOUNS.items()
}
_FOLDER = Path(__file__).parent / "templates"


def load_templates(attribute: str) -> tuple[str, ...]:
    """The templates of one attribute, in file order.

    Raises ValueError if there are not 50 different ones or one is malformed.
    """
    path = _FOLDER / f"{attribute}.txt"
    templates = tuple(path.read_text(encoding="utf-8").splitlines())
    if len(set(templates)) != TEMPLATES_PER_ATTRIBUTE or len(templates) != TEMPLATES_PER_ATTRIBUTE:
        raise ValueError(f"{path.name}: {TEMPLATES_PER_ATTRIBUTE} different templates are needed, one per line")
    for template in templates:
        check_template(template)
    return templates


def check_template(template: str) -> None:
    """Raises ValueError unless it is one sentence with one {name}, one {value} and otherwise only pronoun slots."""
    slots = re.findall(r"\{(.*?)\}", template)
    literal = re.sub(r"\{.*?\}", "x", template)
    if slots.count("name") != 1 or slots.count("value") != 1:
        raise ValueError(f"template {template!r}: exactly one {{name}} and one {{value}} are needed")
    if unknown := set(slots) - {"name", "value"} - PRONOUNS["female"].keys():
        raise ValueError(f"template {template!r}: unknown slots {sorted(unknown)}")
    if not re.fullmatch(r"[^\s{}]+( [^\s{}]+)*\.", literal):
        raise ValueError(
            f"template {template!r}: a sentence with single spaces, matched braces and a full stop is needed"
        )


def split_template(template: str, gender: str) -> tuple[tuple[str, str, str], bool]:
    """The text before, between and after name and value, with pronouns filled in, and whether the name is first."""
    filled = re.sub(r"\{(\w+)\}", lambda slot: PRONOUNS[gender].get(slot[1], slot[0]), template)
    before, first, between, _, after = re.split(r"(\{name\}|\{value\})", filled)
    return (before, between, after), first == "{name}"


@dataclass(frozen=True)
class Wording:
    """All templates as literal pieces, indexed by number.

    A template's number is attribute * 50 + line.
    literals: three for each template, gender, and position: as the first sentence, or after another (with a space).
    name_first: (templates,), True if the name comes before the value.
    """

    literals: tuple[str, ...]
    name_first: NDArray[np.bool_]

    @staticmethod
    def literal_index(
        template: NDArray[np.int32], gender: NDArray[np.int32], follows: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """The index in `literals` of the first of a sentence's three literals. The arguments broadcast."""
        return ((template * 2 + gender) * 2 + follows) * 3


def load_wording() -> Wording:
    """The templates of every attribute, checked and split into literals."""
    literals: list[str] = []
    name_first: list[bool] = []
    for attribute in ATTRIBUTES:
        for template in load_templates(attribute):
            for gender in GENDERS:
                (before, between, after), first = split_template(template, gender)
                literals += [before, between, after, " " + before, between, after]
            name_first.append(first)
    return Wording(tuple(literals), np.array(name_first))
