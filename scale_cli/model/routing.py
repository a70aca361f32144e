"""Eq. 5 of SCALE (arXiv 2511.03270): SCALE-Route's choice between its two paths, token by token.

    cos(Z_preserve, Z_adapt) > tau:  (Z_preserve + Z_adapt) / 2 + Z_up_preserve      the preserving branch
    otherwise:                       Z_adapt + Z_up_adapt

Z are the logits of the base's stream, Z_up those of the added stream.
"""

from __future__ import annotations

import torch
from torch import Tensor


def route(z_preserve: Tensor, z_adapt: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Eq. 5 without its Z_up, and which tokens take the preserving branch.

    z_preserve, z_adapt: (..., vocabulary).
    Returns (..., vocabulary) and (...) bool. The choice is a constant to autograd (appendix D): as it is 0 or 1 per
    token, the weighted loss of the paper is the loss of the chosen logits.
    """
    with torch.no_grad():
        preserved = cosine(z_preserve, z_adapt) > tau
        half = preserved.unsqueeze(-1).to(z_adapt.dtype) / 2
    return torch.lerp(z_adapt, z_preserve, half), preserved


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine between vectors (..., n), in float32 at least, (...)."""
    wide = torch.promote_types(a.dtype, torch.float32)
    a, b = a.to(wide), b.to(wide)
    lengths = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return torch.linalg.vecdot(a, b) / lengths.clamp(min=torch.finfo(wide).tiny)
