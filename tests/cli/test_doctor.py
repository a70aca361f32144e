"""`scale doctor` reports hardware and packages, missing parts, and advice."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from scale_cli.cli import doctor
from scale_cli.methods import METHODS

RunCli = Callable[..., Any]


def test_report(run_cli: RunCli) -> None:
    ended = run_cli("doctor")
    assert ended.code == 0
    assert all(word in ended.stdout for word in ("Python", "CPU", "memory", "disk", "Hub", "what to do"))
    assert "missing" in ended.stderr


def test_json_holds_the_same_checks(run_cli: RunCli) -> None:
    ended = run_cli("doctor", "--json")
    assert ended.code == 0
    checks = {check["name"]: check for check in json.loads(ended.stdout)["checks"]}
    assert {"Python", "CPU", "memory", "disk"} < set(checks)
    assert checks["CPU"].keys() == {"name", "found", "status", "advice"}


def test_the_self_test_finds_a_base_that_changes(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run_cli("doctor", "--json")
    checks = [check for check in json.loads(ended.stdout)["checks"] if check["name"].startswith("base kept on")]
    assert [check["name"] for check in checks] == ["base kept on cpu, float32", "base kept on cpu, bfloat16"]
    assert {check["status"] for check in checks} == {"ok"}
    assert all(check["found"].startswith("0 of its logits and") for check in checks)

    def trains_all(model: Any, *arguments: Any) -> Any:
        return model.requires_grad_(True)

    monkeypatch.setitem(METHODS, "scale-preserve", dataclasses.replace(METHODS["scale-preserve"], apply=trains_all))
    ended = run_cli("doctor")
    assert ended.code == 2
    assert "base kept on cpu, float32, base kept on cpu, bfloat16: training changed the base" in ended.stderr
    assert "base kept" not in run_cli("doctor", "--no-self-test").stdout


def test_packages_are_compared_with_the_requirements() -> None:
    requirements = ["torch>=2.0", "rich>=9999", "no-such-package-of-ours>=1.0", "mypy>=9999; extra == 'dev'"]
    torch, rich, absent = doctor._packages(requirements)
    assert torch.status == "ok"
    assert (rich.status, rich.advice) == ("missing", "pip install 'rich>=9999'")
    assert (absent.found, absent.status) == ("not installed", "missing")


def test_an_extra_that_is_not_installed_is_optional() -> None:
    requirements = ["no-such-package-of-ours>=1.0; extra == 'zstd'", "rich>=9999; extra == 'gguf'"]
    absent, old = doctor._packages(requirements)
    assert (absent.found, absent.status) == ("not installed", "note")
    assert absent.advice == "optional, for data in .zst files: pip install 'scale-cli[zstd]'"
    assert (old.status, old.advice) == ("note", "optional, for scale fetch smollm2: pip install 'scale-cli[gguf]'")


def test_a_cpu_that_multiplies_in_bfloat16_is_named() -> None:
    has = doctor._cpu_bfloat16({"avx2": True, "avx512_bf16": True})
    assert (has.found, has.advice) == ("on this CPU (avx512_bf16)", "--precision bfloat16 trains large models faster")
    for capabilities in ({}, {"avx512_f": True, "avx512_bf16": False}):
        assert doctor._cpu_bfloat16(capabilities).found == "not on this CPU"


def test_a_source_tree_that_is_not_installed_is_named() -> None:
    assert list(doctor._packages(None)) == [doctor.Check("scale-cli", "not installed", "missing", "make install")]


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE is set", "HF_TOKEN is not set"]),
        ({"HF_HUB_OFFLINE": "0", "HF_TOKEN": "secret"}, ["allowed", "HF_TOKEN is set"]),
    ],
)
def test_hub(environment: dict[str, str], found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    checks = list(doctor._hub())
    assert [check.found for check in checks] == found
    assert "secret" not in str(checks)
