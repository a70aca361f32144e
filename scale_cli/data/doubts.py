"""What makes a training or a measurement doubtful: text that is repeated too often, held-out text that is trained on.

Importing this does not import torch.
"""

from __future__ import annotations

FEW_EPOCHS = 4
"""Up to about this number, repeated text is worth nearly as much as new text (Muennighoff et al., arXiv 2305.16264)."""


def repeated_often(name: str, epochs: float | None) -> str | None:
    """A line on a source that is read more than about `FEW_EPOCHS` times; None if it is not, or if that is unknown."""
    if epochs is None or round(epochs, 1) <= FEW_EPOCHS:
        return None
    return (
        f"{name} is read {epochs:.1f} times; beyond about {FEW_EPOCHS} epochs repeated text teaches less and less "
        "(arXiv 2305.16264)"
    )


def also_trained(held_out: str, *, shared: int, documents: int, trained: str) -> str:
    """A line on a held-out text of which `shared` of the `documents` are in a text that is trained on."""
    return (
        f"{shared:,} of {documents:,} documents of {held_out} are also in {trained}: results on it will be too good; "
        "remove them from one of the two"
    )
