"""Sizes, cost and memory, before anything is written."""
