"""Measuring checkpoints: harness tasks, perplexity, biography accuracy, and drift from the base."""
