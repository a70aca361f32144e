"""A widened folder in other tools: loaded, saved, generated with and evaluated without this package.

The programs run in a separate process that cannot import our packages or, in the slowest test, in an environment
in which they were never installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from scale_cli.checkpoints.export import export
from scale_cli.surgery import upscale
from tests.helpers import base_folder
from tests.processes import start
from tests.runs import World, run

ROOT = Path(__file__).parents[2]
OURS = ("scale_cli", "benchmarks", "data_gen", "tests")

BLOCKER = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OURS}:
            raise ModuleNotFoundError("refused: " + name, name=name)
sys.meta_path.insert(0, Refuse())
"""
"""A sitecustomize module that blocks the import of our packages from the start of a process."""

PROGRAM = """
import contextlib, importlib.util, logging, sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=DeprecationWarning)
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, pipeline
from transformers.utils.logging import disable_progress_bar
disable_progress_bar()
said = []
class Listener(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger("transformers").addHandler(Listener())
ours, out, *folders = sys.argv[1:]
if ours == "ours":
    import scale_cli.model
    trust = {}
else:
    for name in ("scale_cli", "benchmarks", "data_gen"):
        with contextlib.suppress(ModuleNotFoundError):
            assert importlib.util.find_spec(name) is None, name
    trust = {"trust_remote_code": True}
torch.set_num_threads(1)
tokens = torch.arange(24).view(2, 12) % 13

@torch.no_grad()
def look(model):
    return {
        "class": type(model).__module__ + "." + type(model).__name__,
        "logits": model(tokens, use_cache=False).logits,
        "generated": model.generate(tokens[:, :5], max_new_tokens=6, do_sample=False, pad_token_id=0),
        "state": model.state_dict(),
        "trains": sorted(name for name, p in model.named_parameters() if p.requires_grad),
    }

found = {}
for i, folder in enumerate(folders):
    if ours != "ours" and i == 0:  # once loaded, the code serves every such folder
        before = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        try:
            AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
        except ValueError as error:
            assert "trust_remote_code=True" in str(error), error
        else:
            raise AssertionError("loaded code that nobody trusts")
    assert AutoConfig.from_pretrained(folder, **trust).model_type == "scale"
    model = AutoModelForCausalLM.from_pretrained(folder, **trust).eval()
    found[folder] = {"first": look(model)}
    model.save_pretrained(f"{out}/saved-{i}")
    found[folder]["again"] = look(AutoModelForCausalLM.from_pretrained(f"{out}/saved-{i}", **trust).eval())
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **trust).eval()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    found[folder]["bfloat16"] = look(half)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found[folder]["tokenizer"] = (type(tokenizer).__name__, tokenizer.tokenize("Was she born in 1984?"))
    if ours != "ours":
        assert type(before) is type(tokenizer)
    text = pipeline("text-generation", model=folder, tokenizer=tokenizer, device="cpu", **trust)
    asked = {"max_new_tokens": 5, "do_sample": False}
    found[folder]["pipeline"] = text("Where was she born?", **asked)[0]["generated_text"]
# the library's own pipeline causes the other message, before 5.23
ours = [message for message in said if not message.startswith("Passing `generation_config` together")]
assert not [message for message in ours if "deprecat" in message], said
torch.save(found, f"{out}/found.pt")
"""


def environment(tmp_path: Path, *, blocked: bool) -> dict[str, str]:
    """The environment of an offline process with its own caches, in which our packages may be blocked."""
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    caches = {name: str(tmp_path / "cache" / name) for name in ("HF_MODULES_CACHE", "HF_DATASETS_CACHE", "HF_HOME")}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = {"PYTHONPATH": str(site if blocked else ROOT)}
    return inherited | caches | path | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}


def run_program(
    python: str, words: Sequence[object], variables: dict[str, str], *, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments outside this repository. A failure fails the test with the output."""
    ended = subprocess.run(
        [python, *map(str, words)], capture_output=True, text=True, check=False, env=variables, cwd=cwd
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-6000:]
    return ended


def look(python: str, folders: Sequence[Path], tmp_path: Path, *, ours: bool) -> dict[str, Any]:
    """The results of `PROGRAM` for the folders, with our package or without."""
    out = tmp_path / ("ours" if ours else "theirs")
    out.mkdir()
    words = ["ours" if ours else "theirs", out, *folders]
    if ours:
        arguments = {"sys.argv": ["-c", *map(str, words)]}
        code, *printed = start(exec, PROGRAM, {}, folder=tmp_path / "process", patches=arguments).wait()
        assert code == 0, printed
    else:
        run_program(python, ["-c", PROGRAM, *words], environment(out, blocked=True), cwd=out)
    found: dict[str, Any] = torch.load(out / "found.pt")
    return found


def assert_same(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """The results are bitwise equal, and the classes are different ones."""
    assert theirs.keys() == ours.keys()
    for folder, seen in theirs.items():
        assert seen["pipeline"] == ours[folder]["pipeline"]
        assert seen["pipeline"].startswith("Where was she born?")
        assert seen["tokenizer"] == ours[folder]["tokenizer"]
        for how in ("first", "again", "bfloat16"):
            a, b = seen[how], ours[folder][how]
            assert a["class"].startswith("transformers_modules.")
            assert b["class"] == "scale_cli.model.modeling_scale.ScaleForCausalLM"
            assert a["trains"] == b["trains"] == [name for name in sorted(a["state"]) if name.startswith("expansion.")]
            assert a["state"].keys() == b["state"].keys()
            assert all(torch.equal(tensor, b["state"][name]) for name, tensor in a["state"].items())
            assert torch.equal(a["generated"], b["generated"])
            assert torch.equal(a["logits"], b["logits"])
        assert torch.equal(seen["first"]["logits"], seen["again"]["logits"])


@pytest.fixture(scope="module")
def folders(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A widened folder, and the export of a run with a router, of another family."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(world.source("scale-route"), folder / "run", world.recipe("scale-route", steps=2))
    export(str(folder / "run"), folder / "scale-route")
    return [world.checkpoint("neox", "width"), folder / "scale-route"]


def test_where_our_packages_cannot_be_imported(folders: list[Path], tmp_path: Path) -> None:
    theirs = look(sys.executable, folders, tmp_path, ours=False)
    assert_same(theirs, look(sys.executable, folders, tmp_path, ours=True))


def test_the_code_beside_the_weights_is_ours(folders: list[Path]) -> None:
    ours = {file.name: file.read_bytes() for file in (ROOT / "scale_cli" / "model").glob("*.py")}
    del ours["__init__.py"]
    for folder in folders:
        assert {file.name: file.read_bytes() for file in folder.glob("*.py")} == ours


def test_an_import_of_ours_would_be_seen(tmp_path: Path) -> None:
    variables = environment(tmp_path, blocked=True)
    program = "try:\n    import scale_cli\nexcept ModuleNotFoundError as error:\n    print(error)"
    assert run_program(sys.executable, ["-c", program], variables, cwd=tmp_path).stdout == "refused: scale_cli\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-grouped", "neox", "gemma3"])
@torch.no_grad()
def test_compiled_by_inductor(name: str, tmp_path: Path) -> None:
    """The default compiler, which builds C++ here, also with the code beside the weights."""
    upscale(str(base_folder(tmp_path / "base", name)), tmp_path / "wide", by="width", hidden=8, heads=2, verify=False)
    program = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
tokens = torch.arange(24).view(2, 12) % 13
with torch.no_grad():
    expected = model(tokens, use_cache=False).logits
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(tokens, use_cache=False).logits, expected, rtol=1e-4, atol=1e-5)
print("compiled")
"""
    variables = environment(tmp_path, blocked=True)
    ended = run_program(sys.executable, ["-c", program, tmp_path / "wide"], variables, cwd=tmp_path)
    assert ended.stdout.splitlines()[-1] == "compiled"


TASK = """task: born
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def measure(python: str, folder: Path, out: Path, *, blocked: bool) -> dict[str, Any]:
    """The results of the harness's own command for a model folder on a small local task."""
    out.mkdir()
    cities = ["Paris", "Oslo", "Rome", "Lima"]
    rows = [
        {"question": f"Question {i}: where was person {i} born?", "choices": cities, "label": i % 4} for i in range(24)
    ]
    (out / "tasks").mkdir()
    (out / "tasks" / "born.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (out / "tasks" / "born.yaml").write_text(TASK.format(data=out / "tasks" / "born.jsonl"), encoding="utf-8")
    variables = environment(out, blocked=blocked)
    words = ["-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={folder},trust_remote_code=True"]
    words += ["--tasks", "born", "--include_path", str(out / "tasks"), "--device", "cpu", "--batch_size", "4"]
    words += ["--output_path", str(out / "results.json"), "--trust_remote_code"]
    run_program(python, words, variables, cwd=out)
    (file,) = out.glob("results*.json")
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["results"]["born"]
    return {name: value for name, value in results.items() if "," in name}


def assert_measures(python: str, folders: Sequence[Path], base: Path, tmp_path: Path, *, blocked: bool) -> None:
    """The harness accepts the folders, and its results for a freshly widened folder equal those for its base."""
    found = [measure(python, folder, tmp_path / f"measure-{i}", blocked=blocked) for i, folder in enumerate(folders)]
    assert all({"acc,none", "acc_norm,none"} <= results.keys() for results in found)
    assert found[0] == measure(python, base, tmp_path / "measure-base", blocked=blocked)


@pytest.mark.slow
def test_the_harness_takes_it(folders: list[Path], world: World, tmp_path: Path) -> None:
    assert_measures(sys.executable, folders, world.checkpoint("neox"), tmp_path, blocked=True)


@pytest.mark.slow
@pytest.mark.network
def test_in_an_environment_that_never_saw_us(folders: list[Path], world: World, tmp_path: Path) -> None:
    """Only torch, transformers, accelerate and the harness, at the versions this project is tested with."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    packages = ["torch", "transformers", "accelerate", "lm-eval[hf]"]
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    run_program(python, [*install, *packages], {**os.environ}, cwd=tmp_path)
    listed = run_program(python, ["-m", "pip", "list", "--format=freeze"], {**os.environ}, cwd=tmp_path).stdout
    assert "scale" not in listed
    theirs = look(python, folders, tmp_path, ours=False)
    assert_same(theirs, look(sys.executable, folders, tmp_path, ours=True))
    assert_measures(python, folders[:1], world.checkpoint("neox"), tmp_path, blocked=False)
