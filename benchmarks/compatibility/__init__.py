"""Generation of widened checkpoints on several releases of transformers: `python -m benchmarks.compatibility`."""
