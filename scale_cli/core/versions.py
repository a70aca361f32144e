"""The library versions that this package was tested with, and its optional parts."""

import importlib.metadata

TESTED = {
    "torch": ("2.11.0", "2.15.0"),
    "transformers": ("5.17.0", "5.24.0"),
    "accelerate": ("1.13.0", "1.15.0"),
    "datasets": ("4.0.0", "5.2.0"),
    "lm-eval": ("0.4.12", "0.4.13"),
    "peft": ("0.18.0", "0.21.2"),
    "pandas": ("2.3.0", "3.1.1"),
    "typer": ("0.29.0", "0.29.2"),
}
"""The oldest and newest release of each library with which all tests passed. `make test-lowest` runs the tests on the
oldest releases, `make test-newest` on the newest ones available."""
EXTRAS = {
    "gguf": "scale fetch smollm2",
    "tensorboard": "scale train --report-to tensorboard",
    "zstd": "data in .zst files",
}
"""The extras of pyproject.toml for users, with the feature that needs each."""


def install_extra(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'scale-cli[{extra}]'"


def package_version(name: str) -> str | None:
    """The installed version of a distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def untested() -> dict[str, str]:
    """The installed libraries outside the tested range: name -> version and range."""
    from packaging.version import Version

    outside = {}
    for name, (oldest, newest) in TESTED.items():
        version = package_version(name)
        if version and not Version(oldest) <= Version(Version(version).public) <= Version(newest):
            outside[name] = f"{version} (tested: {oldest} to {newest})"
    return outside
