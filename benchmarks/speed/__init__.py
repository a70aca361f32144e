"""Speed and memory, measured: `python -m benchmarks.speed MEASUREMENT`."""
