"""What a method is: one frozen object that holds everything the other rooms ask about one way to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from scale_cli.methods import cost as costs

if TYPE_CHECKING:
    from torch import Tensor

    from scale_cli.data.examples import Examples
    from scale_cli.data.options import DataOptions

Kind = Literal["plain", "width", "depth"]
"""What a checkpoint is: as a Hugging Face class made it, or upscaled by width or by depth."""
Group = Literal["baseline", "SCALE"]
"""The section of a table that a method belongs to."""


@dataclass(frozen=True)
class NoOptions:
    """The options of a method that has none."""


class Size(NamedTuple):
    """The option that sets how many parameters a method trains.

    nearest: (config of the base, parameters) -> the value with which it trains nearest to so many parameters.
    """

    option: str
    nearest: Callable[[Any, int], Any]


class Look(NamedTuple):
    """How figures draw a method: hex colours on white and on a dark ground, and matplotlib's letter of a marker."""

    colour: str
    dark: str
    marker: str


@dataclass(frozen=True)
class Request:
    """What a method's extra data may depend on.

    recipe: of the training; `steps`, `batch_size` and so on are those of the data beside which the extra data stands.
    options: the method's own. tokenizer: the checkpoint's. model: as `Method.apply` returned it, on the CPU.
    processes: that share each step. progress: called with the tokens of each batch of texts that is tokenised.
    """

    recipe: DataOptions
    options: Any
    tokenizer: Any
    model: Any
    processes: int
    progress: Callable[[int], None] | None


@dataclass(frozen=True)
class ExtraData:
    """Data that a method reads beside the training data.

    examples: as `load_examples` returns them. rows: how many of them stand beside each batch of training data.
    """

    examples: Examples
    rows: int


@dataclass(frozen=True)
class Step:
    """What a loss is computed from: one forward and backward pass of a training step, on the model's device.

    model: as `Method.apply` returned it, or wrapped by the library that shares a step among processes; what needs a
        gradient is computed by calling it. unwrapped: the same without the wrapper.
    inputs: the batch of training data: `input_ids` and `labels` (B, T), and other arguments of the model.
    extra: the batch of the method's extra data, with the same names; None for a method without.
    options: the method's own.
    forward: (logits=False) -> the model's own loss on `inputs`, and its output. The loss is a mean over all labels of
        the training step, so it can be added up over the step's batches. Without `logits` the output may lack them.
    share: what a mean over this batch is multiplied with before it is added to that loss, as a step may have several
        batches (gradient accumulation).
    """

    model: Any
    unwrapped: Any
    inputs: Mapping[str, Any]
    extra: Mapping[str, Any] | None
    options: Any
    forward: Callable[..., tuple[Tensor, Any]]
    share: float


def trained_parameters(model: Any) -> dict[str, Tensor]:
    """The parameters that require a gradient, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@dataclass(frozen=True)
class Method:
    """One way to train.

    Required:

    name: the word of `--method`, records and checkpoints. title: its name in tables. group: its section there.
    needs: the kinds of checkpoint that it trains, the usual kind first.
    lr: default of `--lr`, the peak learning rate.
    apply: (model, options, new_layers) -> the model with exactly the parameters requiring a gradient that train;
        `new_layers` are the indices of the blocks that a depth-upscaled checkpoint records as added. RequestError for
        options that do not fit the model.

    With defaults:

    options: the frozen dataclass of its own options, each field an `option(...)`. `scale train` and recipes take these
        beside their own.
    resolve: (options, config) -> the options without None, for a model with this config.
    loss: (step) -> the loss of a batch, (), whose gradient trains. The default is the model's own loss.
    extra_data: (request) -> data to read beside the training data, or None. Each step's batch of it is `Step.extra`.
    cost: (model) -> the multiply-adds per token of the model as `apply` returned it; the meta device will do.
    stored: (model) -> the tensors that a run stores, by name; saving reads them and loading fills them in place. Names
        are those of the model's state dict.
    merged: (trained model) -> the model that loading a run returns, of the class and with the parameters that the
        checkpoint before had; None: the trained model itself.
    trains_all: every parameter trains, so a finished run is a whole Hugging Face folder and no base is left in it.
    keeps_base: the base's half of every hidden state stays bitwise what the base computes (theorem 3.1).
    size: the option that sets how many parameters train; None if only the checkpoint's sizes do.
    yardstick: plans count what upscaling trains by this method, one for each of "width" and "depth".
    order: its place in tables and lists, the lowest first. look: how figures draw it; None: as any other.
    """

    name: str
    title: str
    group: Group
    needs: tuple[Kind, ...]
    lr: float
    apply: Callable[[Any, Any, Sequence[int]], Any]
    options: type = NoOptions
    resolve: Callable[[Any, Any], Any] = lambda options, config: options
    loss: Callable[[Step], Tensor] = lambda step: step.forward()[0]
    extra_data: Callable[[Request], ExtraData | None] = lambda request: None
    cost: Callable[[Any], costs.Cost] = costs.by_model
    stored: Callable[[Any], dict[str, Tensor]] = trained_parameters
    merged: Callable[[Any], Any] | None = None
    trains_all: bool = False
    keeps_base: bool = False
    size: Size | None = None
    yardstick: bool = False
    order: int = 1000
    look: Look | None = None
