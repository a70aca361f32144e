"""Sizes, cost and memory of upscaling and training, computed before anything is written."""
