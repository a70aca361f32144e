"""Checkpoints of every kind: what a folder is, loading it, its files and card, export, restore, push."""
