"""The SCALE architecture as an ordinary Hugging Face model; importing this registers it with the Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from .configuration_scale import ScaleConfig
from .families import FAMILIES, Family, LayerShape, family_of
from .modeling_scale import ScaleForCausalLM, ScaleOutput

AutoConfig.register("scale", ScaleConfig, exist_ok=True)
AutoModelForCausalLM.register(ScaleConfig, ScaleForCausalLM, exist_ok=True)

__all__ = ["FAMILIES", "Family", "LayerShape", "ScaleConfig", "ScaleForCausalLM", "ScaleOutput", "family_of"]
