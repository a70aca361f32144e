"""The bounds in pyproject.toml are the versions that the tests run on; other versions are reported."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scale_cli.cli import doctor
from scale_cli.core import versions
from scale_cli.core.records import environment
from scale_cli.core.versions import EXTRAS, TESTED, untested

ROOT = Path(__file__).parents[2]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> dict[str, Requirement]:
    """The requirements of the package and of its extras for users, by name."""
    extras = PROJECT["optional-dependencies"]
    listed = [*PROJECT["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    return {canonicalize_name(r.name): r for r in map(Requirement, listed)}


def pins(file: str) -> dict[str, Version]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_the_lowest_constraints_are_the_lower_bounds() -> None:
    lowest = pins("constraints-lowest.txt")
    assert lowest.keys() == requirements().keys()
    for name, requirement in requirements().items():
        bound = next(Version(s.version) for s in requirement.specifier if s.operator == ">=")
        assert lowest[name] >= bound, name
        assert lowest[name].release[: len(bound.release)] == bound.release, name


def test_every_extra_for_users_has_its_feature_and_is_in_dev() -> None:
    extras = dict(PROJECT["optional-dependencies"])
    (own,) = (r for r in map(Requirement, extras.pop("dev")) if r.name == PROJECT["name"])
    assert extras.keys() - {"docs"} == EXTRAS.keys() == own.extras


def test_the_tested_range_matches_the_constraints() -> None:
    lowest, pinned = pins("constraints-lowest.txt"), pins("constraints.txt")
    for name, (oldest, newest) in TESTED.items():
        assert lowest[name] == Version(oldest), name
        assert Version(oldest) < pinned[name] <= Version(newest), name
        assert requirements()[name].specifier.contains(newest), name


@pytest.mark.parametrize("version", ["2.13.0", "2.13.0+cpu", "2.11.0"])
def test_a_tested_release_is_not_reported(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "TESTED", {"torch": ("2.11.0", "2.13.0")})
    monkeypatch.setattr(versions, "package_version", lambda name: version)
    assert untested() == {}


@pytest.mark.parametrize("version", ["2.10.0", "2.13.1", "3.0", "2.14.0+cu130"])
def test_another_release_is_reported_by_doctor_and_record(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "TESTED", {"torch": ("2.11.0", "2.13.0")})
    monkeypatch.setattr(versions, "package_version", lambda name: version)
    monkeypatch.setattr(doctor, "package_version", lambda name: version)
    assert environment()["untested"] == {"torch": f"{version} (tested: 2.11.0 to 2.13.0)"}
    (check,) = doctor._packages(["torch>=2.0"])
    assert (check.found, check.status) == (version, "note")
    assert check.advice.endswith(f"pip install 'torch=={TESTED['torch'][1]}'")
