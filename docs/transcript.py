"""Writes docs/transcript.md, the first hour of a new user, by running it: `python -m docs.transcript FOLDER`.

FOLDER, new or empty, is for the models, texts and runs. Needs `scale` and chromium on the path, and a network; takes
half an hour of one core.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent / "transcript.md"
PICTURE = Path(__file__).parent / "images" / "transcript-report.png"
WIDTH, HEIGHT = 1440, 1500
"""Of the picture of the report, in pixels."""
RUN = "--new bills/text.jsonl --old english/text/english.jsonl"
QWEN = """from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

config = Qwen2Config(
    hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
    vocab_size=151936, tie_word_embeddings=True, rope_theta=1000000.0, bos_token_id=1, eos_token_id=2)
Qwen2ForCausalLM(config).save_pretrained("qwen")
AutoTokenizer.from_pretrained("base").save_pretrained("qwen")
"""


@dataclass(frozen=True)
class Step:
    """A paragraph, perhaps none, and the command after it; without a command `QWEN` runs."""

    text: str
    command: str


STEPS = (
    Step("A model, a text to learn and a text of what the model knows.", "scale fetch smollm2 base"),
    Step("", "scale fetch korean-bills bills"),
    Step("", "scale fetch english-offline english"),
    Step(
        "## What would it take?\n\nNothing is written yet.",
        f"scale run base first {RUN} --tokens 8k --seq-length 256 --batch-size 2 --held-out 8 --dry-run",
    ),
    Step(
        "## Train, measure, decide\n\nThe same without `--dry-run`. Called again, it continues or prints the same.",
        f"scale run base first {RUN} --tokens 8k --seq-length 256 --batch-size 2 --held-out 8",
    ),
    Step(
        "![The report](images/transcript-report.png)\n\n`first/report.html` in a browser.\n\n## What does it write?\n\n"
        "`interpolate:0` is the base, `none` the trained model alone, `mixture:0` both together.",
        "scale generate first/run/seed-0/scale-preserve --router interpolate:0 --router none --router mixture:0 "
        "--max-new-tokens 24 --prompt 'The capital of France is' --prompt '제1조(목적) 이 법은'",
    ),
    Step(
        "## Another shape\n\nThe shape of Qwen2.5-0.5B, whose 14 heads share two keys and values, with random weights:",
        "",
    ),
    Step(
        "Random weights know nothing, so only the way is shown: sizes for this base, two trainings, a verdict.",
        f"scale run qwen second {RUN} --tokens 1k --seq-length 128 --batch-size 2 --held-out 2",
    ),
)
HEAD = """# A first hour

**What does it look like?** Every command and its output, on one CPU core; written by `python -m docs.transcript`. The
model is SmolLM2-135M-Instruct, the new text Korean assembly bills. So few tokens show the way, not a result.
"""


def ran(step: Step, folder: Path) -> str:
    """The output of a step without its progress."""
    command = [sys.executable, "-c", QWEN] if not step.command else shlex.split(step.command)
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{step.command}: exit {done.returncode}\n{done.stdout}")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return "\n".join(line for line in lines if not re.search(r"\d of [\d,]+ \(\d+%\)|it/s\]", line))


def block(code: str) -> str:
    """An indented code block; empty lines stay empty."""
    return "".join(f"    {line}".rstrip() + "\n" for line in code.splitlines())


def page(folder: Path) -> str:
    """The text of the page, from running all steps in a folder."""
    parts = [HEAD]
    for step in STEPS:
        output = ran(step, folder)
        parts += [f"{step.text}\n", "<!-- not run: minutes -->\n"] if step.text else []
        wrapped = step.command.replace(" --tokens", " \\\n    --tokens").replace(" --max-new", " \\\n    --max-new")
        wrapped = wrapped.replace(" --prompt 'The", " \\\n    --prompt 'The")
        parts.append(block(f"$ {wrapped}\n{output}" if step.command else QWEN))
    return "\n".join(parts)


def main() -> None:
    """Run the steps and write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"{folder} holds files; give a new folder")
    text = page(folder)
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
    report = (folder / "first" / "report.html").resolve().as_uri()
    subprocess.run(["chromium", *options, f"--screenshot={PICTURE}", report], check=True, stderr=subprocess.DEVNULL)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
