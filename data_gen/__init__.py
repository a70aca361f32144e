"""Synthetic biographies of people who do not exist, and questions about them. Needs no torch.

A model can have these facts only from training on the biographies, so retained and forgotten facts can be counted
(the biography benchmark of SCALE, arXiv 2511.03270).
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
