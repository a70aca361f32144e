"""Suites with their own data: benchmarks for the harness without a hub, built from public packages."""
