"""Suites that carry their data: benchmarks for the harness where no hub can be reached, built from public packages."""
