"""The engine of `scale bench`: stages, benchmarks, presets, sweeps, dry runs."""
