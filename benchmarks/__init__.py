"""The paper's benchmarks as recipes, the speed measurements, and the records of real runs."""
