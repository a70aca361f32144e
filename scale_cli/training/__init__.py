"""Training: the recipe, the training run, and its checkpoints. Importing this does not import torch."""

from scale_cli.training.recipe import TrainRecipe

__all__ = ["TrainRecipe"]
