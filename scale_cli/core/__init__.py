"""Errors, files, hub downloads, recipes, records and library versions, shared by every room. Loads no torch."""
