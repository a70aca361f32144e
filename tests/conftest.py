"""What the tests share: an offline, single-threaded process, a tolerance per dtype, the command line as a call."""

import os

# Before torch and the Hugging Face libraries are imported: they read these once.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "200",
    "NO_COLOR": "1",
    "_TYPER_FORCE_DISABLE_TERMINAL": "1",
}

import dataclasses
import functools
import gc
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from scale_cli.cli import main
from scale_cli.methods.osf import OLDEST_PEFT, OSF, has_peft
from tests.once import looked_up_once

if TYPE_CHECKING:
    from tests.checkpoints.hub import Hub
    from tests.runs import Run, World
    from tests.tasks import Tasks

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # started in a shell's background, tests would ignore it

TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is parametrised with a method that the installed libraries lack."""
    if has_peft():
        return
    too_old = pytest.mark.skip(reason=f"peft before {OLDEST_PEFT} has another OSF")
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and OSF.name in callspec.params.values():
            item.add_marker(too_old)


frozen_modules = 0


def pytest_runtest_setup() -> None:
    """Every training run collects garbage; it need not look at all that was imported."""
    global frozen_modules
    if len(sys.modules) > frozen_modules + 50:
        frozen_modules = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache apart from the user's, of this process and those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SCALE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def _looked_up_once() -> Iterator[None]:
    with looked_up_once():
        yield


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are built, not rendered: their files are empty. Rendering takes longer than a tiny model's training."""
    from matplotlib.figure import Figure

    savefig = Figure.savefig

    def touch(figure: Figure, file: Any, **options: Any) -> None:
        if isinstance(file, Path):
            file.touch()
        else:
            savefig(figure, file, **options)

    monkeypatch.setattr(Figure, "savefig", touch)


@pytest.fixture
def tolerance() -> Callable[[torch.dtype], dict[str, float]]:
    """How near two values are that differ in rounding only: `assert_close(a, b, **tolerance(a.dtype))`."""
    return TOLERANCE.__getitem__


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> "World":
    """Biographies and checkpoints of every kind; read them only."""
    from tests.runs import make_world  # here, as it loads much

    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def finished(world: "World", tmp_path_factory: pytest.TempPathFactory) -> "Callable[[str, str], Run]":
    """`finished("lora", "neox")`: a run of each method and family with the world's recipe, made once; read it only."""
    from tests.runs import run

    @functools.cache
    def make(method: str, family: str = "llama") -> "Run":
        folder = tmp_path_factory.mktemp("finished") / "run"
        return run(world.source(method, family), folder, world.recipe(method))

    return make


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Tasks]":
    """Tiny tasks for the harness, whose data sets are cached apart from the user's; read them only."""

    from tests.tasks import make_tasks

    made = make_tasks(tmp_path_factory.mktemp("tasks") / "made")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.patches.items():
            patch.setattr(name, value)
        patch.setenv("HF_DATASETS_CACHE", str(made.cache))  # of processes that a test starts
        yield made


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator["Hub"]:
    """A stand-in for the hub to which this process sends; the library has read where that is when it was imported."""
    from tests.checkpoints.hub import TOKEN, hub

    with hub() as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


@dataclasses.dataclass(frozen=True)
class Finished:
    """How a command ended and what it said."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """`run_cli("doctor", "--json")` in this process; an exception that the command line lets through is raised here."""

    def run(*words: object) -> Finished:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Finished(code, *capsys.readouterr())

    return run


@pytest.fixture
def run_cli_process() -> Callable[..., Finished]:
    """The same in a process of its own, as from a shell."""

    def run(*words: object) -> Finished:
        program = "import sys; from scale_cli.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", program, *map(str, words)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        return Finished(ended.returncode, ended.stdout, ended.stderr)

    return run
