"""EWC (elastic weight consolidation, Kirkpatrick et al. 2017, arXiv 1612.00796): full fine-tuning with an anchor.

Every weight is pulled back to its start, the harder the more the base's predictions on old text depend on it:

    loss + weight / 2 x sum_i F_i (w_i - start_i)^2

F is the diagonal of the Fisher information on the old text, per predicted token, so with weight 1 the second term is a
second-order estimate of the KL per old token from the base. On text that the base samples it is the Fisher information
itself, on given text the empirical one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scale_cli.core.recipe import option
from scale_cli.data.options import parse_people
from scale_cli.methods.cost import by_layers
from scale_cli.methods.method import Look, Method, OldTexts, Step, trained_parameters
from scale_cli.results.result import SAMPLED

if TYPE_CHECKING:
    from torch import Tensor, nn

CHILD = "ewc"
"""The name of the module with anchor and Fisher information below the trained model."""


@dataclass(frozen=True)
class EwcOptions:
    """The anchor's weight, and the old text on which it is measured."""

    ewc_weight: float = option(
        30.0, help="Weight of ewc's anchor, in units of the KL per token of old text that it estimates."
    )
    ewc_data: str = option(
        SAMPLED,
        help="Old text of ewc: self for texts that the base samples, or a SOURCE as in --data. Beside questions, a "
        "gen-bios folder gives questions.",
    )
    ewc_people: str | None = option(None, help="A:B, the range of people if --ewc-data is a gen-bios folder.  [all]")
    ewc_texts: int = option(256, help="Number of sequences of old text that ewc reads, before the first step.")

    def __post_init__(self) -> None:
        if not self.ewc_weight > 0:
            raise ValueError(f"--ewc-weight {self.ewc_weight:g}: above 0")
        if self.ewc_texts < 1:
            raise ValueError(f"--ewc-texts {self.ewc_texts}: at least 1")
        if self.ewc_people is not None:
            parse_people(self.ewc_people)
            if self.ewc_data == SAMPLED:
                raise ValueError(f"--ewc-people {self.ewc_people}: --ewc-data {SAMPLED} has no people")


def apply(model: Any, options: EwcOptions, new_layers: Sequence[int]) -> Any:
    """The model with all parameters trainable, their values now as the anchor, and room for the Fisher information."""
    model.requires_grad_(True)
    setattr(model, CHILD, _anchor(model))
    # Every process computes both itself, from the same text.
    model._ddp_params_and_buffers_to_ignore = [f"{CHILD}.{name}" for name, _ in getattr(model, CHILD).named_buffers()]
    return model


def _anchor(model: Any) -> nn.Module:
    """A module with the buffers `start-NAME` and `fisher-NAME` for every parameter NAME, absent from the state dict."""
    from torch import nn

    module = nn.Module()
    for name, parameter in model.named_parameters():
        start = parameter.detach().clone()
        for kind, tensor in (("start", start), ("fisher", start.new_zeros(start.shape))):
            module.register_buffer(_buffer(kind, name), tensor, persistent=False)
    return module


def _buffer(kind: str, name: str) -> str:
    """The name of a parameter's buffer; torch allows no dot in it."""
    return f"{kind}-{name.replace('.', '-')}"


def fisher(model: Any) -> dict[str, Tensor]:
    """The Fisher information of every parameter, by the parameter's name."""
    anchor = getattr(model, CHILD)
    return {name: getattr(anchor, _buffer("fisher", name)) for name, _ in model.named_parameters()}


def begin(model: Any, texts: Iterable[Mapping[str, Tensor]]) -> None:
    """Measure the Fisher information: the sum of the squared gradients of each sequence's loss, per predicted token.

    texts: sequences, as batches of one row.
    """
    import torch

    measured, tokens = fisher(model), 0
    parameters = trained_parameters(model)
    was_training = model.training
    model.eval()
    for text in texts:
        predicted = int((text["labels"][:, 1:] != -100).sum())
        if predicted:
            loss = predicted * model(**text, use_cache=False).loss  # the library's is the mean
            for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
                measured[name].add_(gradient.float().square())
        tokens += predicted
    for tensor in measured.values():
        tensor.div_(max(tokens, 1))
    model.train(was_training)


def penalty(model: Any) -> Tensor:
    """1/2 x sum_i F_i (w_i - start_i)^2 over all parameters, ()."""
    import torch

    class Pull(torch.autograd.Function):
        """A parameter's part. It keeps no tensor for the backward pass."""

        @staticmethod
        def forward(ctx: Any, weight: Tensor, start: Tensor, strength: Tensor) -> Tensor:
            ctx.save_for_backward(weight, start, strength)
            return (weight - start).square_().mul_(strength).sum() / 2

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            weight, start, strength = ctx.saved_tensors
            return (weight - start).mul_(strength).mul_(gradients[0]), None, None

    anchor, strengths = getattr(model, CHILD), fisher(model)
    parts = [
        Pull.apply(parameter, getattr(anchor, _buffer("start", name)), strengths[name])
        for name, parameter in model.named_parameters()
    ]
    return torch.stack(parts).sum()


def loss(step: Step) -> Tensor:
    """The model's own loss and the anchor's."""
    own, _ = step.forward()
    return own + step.options.ewc_weight * step.share * penalty(step.unwrapped)


def stored(model: Any) -> dict[str, Tensor]:
    """The trained weights and the Fisher information, which a resumed run reads back. The start is the base's."""
    return trained_parameters(model) | {f"{CHILD}.{name}": tensor for name, tensor in fisher(model).items()}


def merged(model: Any) -> Any:
    """The trained model without anchor and Fisher information."""
    delattr(model, CHILD)
    del model._ddp_params_and_buffers_to_ignore
    return model


EWC = Method(
    name="ewc",
    title="EWC",
    group="baseline",
    needs=("plain", "depth"),
    lr=1e-4,  # fft's; not in the sweep
    apply=apply,
    options=EwcOptions,
    loss=loss,
    old_texts=lambda options: OldTexts("--ewc-data", options.ewc_data, options.ewc_people, options.ewc_texts),
    begin=begin,
    cost=by_layers,  # 6N; the anchor is per step, not per token
    stored=stored,
    merged=merged,
    trains_all=True,
    order=9,
    shards=False,
    look=Look("#b0306e", "#ec86b8", "p"),
)
