"""The SCALE architecture as an ordinary Hugging Face model. Importing it registers the Auto classes."""

from transformers import AutoModelForCausalLM

from .configuration_scale import ScaleConfig
from .families import FAMILIES, Family, LayerShape, family_of
from .modeling_scale import ScaleForCausalLM
from .outputs import ScaleOutput

AutoModelForCausalLM.register(ScaleConfig, ScaleForCausalLM, exist_ok=True)
# A saved model has this code beside its weights, for `trust_remote_code` where the package is not installed.
ScaleConfig.register_for_auto_class()
ScaleForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["FAMILIES", "Family", "LayerShape", "ScaleConfig", "ScaleForCausalLM", "ScaleOutput", "family_of"]
