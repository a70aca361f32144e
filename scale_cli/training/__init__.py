"""Training: data and its order, the one training path, checkpoints. Importing this loads no torch."""

from scale_cli.training.recipe import TrainRecipe

__all__ = ["TrainRecipe"]
