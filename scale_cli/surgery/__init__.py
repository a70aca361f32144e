"""Base checkpoint -> wider or deeper checkpoint that computes the same: planning, initialisation, writing, proof."""

from scale_cli.surgery.initialise import expand_embedding, expand_linear
from scale_cli.surgery.upscale import UpscaleResult, upscale

__all__ = ["UpscaleResult", "expand_embedding", "expand_linear", "upscale"]
