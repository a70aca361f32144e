"""Run the library's own tests for models on the widened model, e.g. `python -m tests.common -k save`."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from scale_cli.core.files import default_cache
from tests.common.library import download, install_requirement, missing_modules
from tests.common.settings import FAMILY, PACKAGES, SOURCE


class Outcomes:
    """A pytest plugin that counts what passed and failed, and collects why tests were skipped."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.reasons: dict[str, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: Any) -> None:
        is_subtest, is_setup = hasattr(report, "context"), report.when != "call"
        if report.passed and (is_subtest or is_setup):
            return
        _, case, test = report.nodeid.split("::")
        self.counts[case][report.outcome] += 1
        if report.skipped:
            self.reasons[report.longrepr[2].removeprefix("Skipped: ")].append(test)

    def table(self) -> str:
        """One line per method, then one line per reason of a skip with its tests."""
        lines = [
            f"{case}: {', '.join(f'{n} {word}' for word, n in counts.items())}" for case, counts in self.counts.items()
        ]
        for reason, tests in sorted(self.reasons.items()):
            lines.append(f"skipped: {reason}: {', '.join(sorted(set(tests)))}")
        return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.common", description=__doc__)
    parser.add_argument(
        "--transformers-source",
        type=Path,
        help="a checkout of transformers, or an unpacked source distribution [default: that of the installed release, "
        "downloaded; it lacks tests/generation, so generation tests need a checkout]",
    )
    parser.add_argument("--family", default="llama", help="the base's model_type [default: llama]")
    options, rest = parser.parse_known_args()
    cache = default_cache() / "transformers-tests"
    source = options.transformers_source or download(cache)
    os.environ |= {SOURCE: str(source), PACKAGES: str(install_requirement(cache)), FAMILY: options.family}
    os.environ["HF_HUB_OFFLINE"] = "1"
    outcomes = Outcomes()
    ours = ["--noconftest", "-o", "addopts=", "-o", "filterwarnings=default", "--import-mode=importlib", "-q"]
    suite = str(Path(__file__).with_name("suite.py"))
    code = pytest.main([suite, *ours, "-p", "no:cacheprovider", "--disable-warnings", *rest], plugins=[outcomes])
    print(outcomes.table())
    for name in missing_modules(source):
        print(f"not run: tests/{name.replace('.', '/')}.py is not in {source}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
