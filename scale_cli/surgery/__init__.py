"""Upscaling a checkpoint by width or depth without changing its function: planning, initialising, writing, proof."""

from scale_cli.surgery.initialise import expand_embedding, expand_linear
from scale_cli.surgery.upscale import UpscaleResult, upscale

__all__ = ["UpscaleResult", "expand_embedding", "expand_linear", "upscale"]
