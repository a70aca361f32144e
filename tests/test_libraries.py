"""What we rely on in other libraries beyond their documented interfaces, all of it, on the installed releases.

Each name below is private, replaced for a while, or overridden by a class of ours. A release that takes one away or
gives it other parameters fails here by its name, not somewhere in a run. What the names do is tested where they are
used, which the second column says.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from transformers import GenerationMixin, PreTrainedModel, Trainer, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from scale_cli.model import ScaleConfig, ScaleForCausalLM
from scale_cli.model.compatibility import CACHE
from scale_cli.model.layer import ExpansionLayer
from scale_cli.training.trainer import MetricsWriter, PartTrainer, StopAtStep

PRIVATE = {
    # torch
    "torch.nn.Module._modules": "model.layer.at: a submodule by its path",
    "torch._subclasses.fake_tensor.FakeTensorMode": "planning.memory: a step without values",
    "torch.utils._python_dispatch.TorchDispatchMode": "planning.memory: the tensors that a step makes",
    "torch.utils._pytree.tree_iter": "planning.memory",
    # transformers
    "transformers.core_model_loading.revert_weight_conversion": "checkpoints.export: the names in files",
    "transformers.dynamic_module_utils.custom_object_save": "checkpoints.companions: the code beside the weights",
    "transformers.masking_utils.find_packed_sequence_indices": "planning.memory: replaced by one that finds none",
    "transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS.get_interface": "model.attention",
    "transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING": "model, surgery: a base's class",
    "transformers.initialization.constant_": "model.modeling_scale: values that loading does not overwrite",
    "transformers.integrations.integration_utils.get_available_reporting_integrations": "training: --report-to",
    "transformers.GenerationMixin._supports_logits_to_keep": "data.windows",
    "transformers.PreTrainedModel._init_weights": "model: overridden",
    "transformers.PreTrainedModel._skip_keys_device_placement": "model: set",
    "transformers.PreTrainedModel._no_split_modules": "model: set",
    "transformers.PreTrainedModel._supports_sdpa": "model: set",
    "transformers.PreTrainedModel._supports_flash_attn": "model: set",
    "transformers.PreTrainedModel._supports_flex_attn": "model: set",
    "transformers.PreTrainedModel._supports_attention_backend": "model: set",
    "transformers.PreTrainedModel._can_compile_fullgraph": "model: set",
    "transformers.PreTrainedModel._tied_weights_keys": "model: set from the base's",
    "transformers.PreTrainedConfig._attn_implementation": "model: read from the base's config",
    "transformers.PreTrainedConfig.sub_configs": "model: overridden",
    "transformers.Trainer._save": "training.trainer: overridden",
    "transformers.Trainer._save_checkpoint": "training.trainer: overridden",
    "transformers.Trainer._load_from_checkpoint": "training.trainer: overridden",
    # accelerate
    "accelerate.utils.convert_outputs_to_fp32": "planning.memory: as the trainer does",
    "accelerate.utils.get_balanced_memory": "model.placement: device_map",
    # datasets: its own readers, whose builders take the paths of files as they are, and not as patterns
    "datasets.data_files.DataFilesDict": "data.texts",
    "datasets.data_files.DataFilesList": "data.texts",
    "datasets.packaged_modules.arrow.arrow.Arrow": "data.texts",
    "datasets.packaged_modules.csv.csv.Csv": "data.texts",
    "datasets.packaged_modules.parquet.parquet.Parquet": "data.texts",
    "datasets.packaged_modules.text.text.Text": "data.texts",
    # lm-eval
    "lm_eval.tasks._factory.GROUP_FIELD_NAMES": "evaluation.catalogue: a task's definition",
    "lm_eval.tasks._index.Entry": "evaluation.catalogue",
    "lm_eval.tasks._index.Kind": "evaluation.catalogue",
    "lm_eval.tasks._yaml_loader.load_yaml": "evaluation.catalogue",
    "lm_eval.models.huggingface.HFLM._model_call": "evaluation.harness: replaced, for progress and the routed share",
    "lm_eval.models.huggingface.HFLM._model_generate": "evaluation.harness: replaced, the same",
    "lm_eval.models.huggingface.HFLM._select_cont_toks": "evaluation.harness: replaced, for the routed share",
    "lm_eval.models.huggingface.HFLM._detect_batch_size": "evaluation.harness: replaced, for what fits a CPU",
    "lm_eval.models.huggingface.tqdm": "evaluation.quiet: replaced, for progress",
    "lm_eval.api.model.tqdm": "evaluation.quiet: replaced",
    "lm_eval.api.task.tqdm": "evaluation.quiet: replaced",
    "lm_eval.evaluator.add_env_info": "evaluation.quiet: replaced",
    "lm_eval.evaluator.get_git_commit_hash": "evaluation.quiet: replaced",
}
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "transformers.core_model_loading.revert_weight_conversion": ((None, {}), {}),
    "transformers.dynamic_module_utils.custom_object_save": ((None, "folder"), {}),
    "transformers.masking_utils.create_causal_mask": (
        (),
        {"config": None, "inputs_embeds": None, "attention_mask": None, CACHE: None, "position_ids": None},
    ),
    "datasets.data_files.DataFilesList": ((["/a.txt"], [()]), {}),
    "datasets.packaged_modules.text.text.TextConfig": ((), {"sample_by": "line", "encoding": "", "chunksize": 1}),
    "lm_eval.tasks._yaml_loader.load_yaml": (("path",), {"resolve_func": True}),
    "lm_eval.models.huggingface.HFLM._select_cont_toks": ((None, None), {"contlen": 1, "inplen": 1}),
    "lm_eval.models.huggingface.HFLM._detect_batch_size": ((None,), {"requests": None, "pos": 0}),
}
"""How we call, or are called in the place of, some of them."""
OVERRIDDEN: list[tuple[type, type]] = [
    (PartTrainer, Trainer),
    (MetricsWriter, TrainerCallback),
    (StopAtStep, TrainerCallback),
    (ScaleForCausalLM, PreTrainedModel),
    (ScaleForCausalLM, GenerationMixin),
    (ExpansionLayer, GradientCheckpointingLayer),
]
NONE_BY_DEFAULT = ("_no_split_modules", "_modules", "_tied_weights_keys", "_skip_keys_device_placement")
WIDER = {"__init__", "forward", "from_pretrained", "_init_weights"}
"""Methods that we give parameters of our own; tested in tests/model and tests/training."""


def resolved(name: str) -> Any:
    """What a dotted name means: a module as far as one can be imported, then attributes."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if part == "_modules":  # of an instance
                return found()._modules
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} is not there")


@pytest.mark.parametrize("name", PRIVATE)
def test_it_is_there(name: str) -> None:
    assert resolved(name) is not None or name.endswith(NONE_BY_DEFAULT)


def test_a_name_that_is_gone_is_seen() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        resolved("transformers.masking_utils.no_such_name")


@pytest.mark.parametrize("name", CALLS)
def test_it_takes_what_we_give(name: str) -> None:
    arguments, keywords = CALLS[name]
    inspect.signature(inspect.unwrap(resolved(name))).bind(*arguments, **keywords)


@pytest.mark.parametrize(
    ("ours", "theirs", "name"),
    [
        pytest.param(ours, theirs, name, id=f"{ours.__name__}.{name}")
        for ours, theirs in OVERRIDDEN
        for name, value in vars(ours).items()
        if callable(value) and callable(getattr(theirs, name, None)) and name not in WIDER
    ],
)
def test_an_override_has_the_librarys_parameters(ours: Any, theirs: Any, name: str) -> None:
    """By name and in order, so that what the library hands over arrives, by place or by keyword."""
    mine, library = (_parameters(getattr(of, name)) for of in (ours, theirs))
    assert mine[: len(library)] == library


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The names of a function's parameters but self, those beyond the named ones left out."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind not in kinds and parameter.name != "self"]


def test_the_forward_takes_what_generation_gives() -> None:
    """The library looks these up in the signature to decide what to hand over."""
    assert {"input_ids", "attention_mask", "position_ids", CACHE, "use_cache", "logits_to_keep"} <= set(
        inspect.signature(ScaleForCausalLM.forward).parameters
    )


def test_a_config_keeps_unknown_fields() -> None:
    """`ScaleConfig.__post_init__` hands the fields that it does not know to the library's, which keeps them."""
    assert ScaleConfig(own_word=3).own_word == 3  # type: ignore[call-arg]
