"""Synthetic biographies and questions about people who do not exist: text and seeds, never torch.

A model that reads the biographies can only know the facts by having learnt them, so what it keeps and what it forgets
can be counted (SCALE, arXiv 2511.03270, the biography benchmark).
"""

from data_gen.facts import ATTRIBUTES, DataRequestError
from data_gen.generator import generate
from data_gen.manifest import FileRecord, Manifest, PoolRecord, read_manifest

__all__ = [
    "ATTRIBUTES",
    "DataRequestError",
    "FileRecord",
    "Manifest",
    "PoolRecord",
    "generate",
    "read_manifest",
]
