"""Checkpoints of every kind: describing and loading them, their files and model cards, export, restore, push."""
