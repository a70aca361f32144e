"""The `Method` class: a frozen object with everything that the rest of the package needs of a training method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from scale_cli.methods import cost as costs
from scale_cli.methods.teacher import Teacher, frozen_copy

if TYPE_CHECKING:
    from torch import Tensor

    from scale_cli.data.examples import Examples
    from scale_cli.data.options import DataOptions

Kind = Literal["plain", "width", "depth"]
"""The kinds of checkpoints: a plain Hugging Face model, or one upscaled by width or by depth."""
Group = Literal["baseline", "SCALE"]
"""The sections of tables."""


@dataclass(frozen=True)
class NoOptions:
    """The options class of methods without options."""


class Size(NamedTuple):
    """The option that sets a method's number of trained parameters.

    option: its key. nearest: (config of the base, parameters) -> the value with which the number of trained parameters
    is closest to `parameters`.
    """

    option: str
    nearest: Callable[[Any, int], Any]


class Look(NamedTuple):
    """A method's appearance in figures: hex colours on a white and on a dark background, and a marker of matplotlib."""

    colour: str
    dark: str
    marker: str


@dataclass(frozen=True)
class Request:
    """The arguments of `Method.extra_data`.

    recipe: of the training run; its `steps`, `batch_size` and so on are those of the training data.
    options: the method's own. tokenizer: the checkpoint's. model: as `Method.apply` returned it, on the CPU.
    processes: number of processes that share each step.
    progress: called with the number of tokens of each batch of texts that is tokenised.
    """

    recipe: DataOptions
    options: Any
    tokenizer: Any
    model: Any
    processes: int
    progress: Callable[[int], None] | None


@dataclass(frozen=True)
class ExtraData:
    """Data that a method reads in addition to the training data.

    examples: as `load_examples` returns them. rows: number of extra examples per batch of training data.
    """

    examples: Examples
    rows: int


@dataclass(frozen=True)
class OldTexts:
    """Texts of what the base knows.

    option: the flag that names them, for messages. source: "self" for texts that the base samples, or a source as in
    `--data`. people: "A:B", of a gen-bios folder; None: all. count: number of sequences.
    """

    option: str
    source: str
    people: str | None
    count: int


@dataclass(frozen=True)
class Step:
    """The arguments of `Method.loss`: one batch of a training step, on the model's device.

    model: as `Method.apply` returned it, or wrapped for several processes. Call it for everything that needs a
        gradient. unwrapped: the model without the wrapper.
    inputs: the batch of training data: `input_ids` and `labels` (B, T), and other arguments of the model.
    extra: the batch of the method's extra data, with the same names; None if the method has no extra data.
    options: the method's own.
    forward: (logits=False) -> the model's own loss on `inputs`, (), and its output. The loss is normalised by the
        labels of the whole step, so the losses of the step's batches are added. The output may lack logits unless
        `logits` is true.
    share: the weight of this batch in the step (gradient accumulation). Multiply a mean over the batch by it before
        adding it to that loss.
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
    """A training method.

    Required:

    name: the value of `--method`, and the name in records and checkpoints. title: the name in tables. group: the
        section of tables.
    needs: the kinds of checkpoints that can be trained, the usual kind first.
    lr: default of `--lr`, the peak learning rate. For our methods it is the best of the sweep in
        benchmarks/records/korean-demo-sweep.json, on a base of 135M parameters; larger bases need lower ones.
    apply: (model, options, new_layers) -> the model, in which exactly the trained parameters require a gradient.
        `new_layers` are the indices of the blocks that depth upscaling added. Raises RequestError for options that do
        not fit the model.

    With defaults:

    options: a frozen dataclass of the method's own options, each field an `option(...)`. They are options of `scale
        train` and keys of its recipes.
    resolve: (options, config) -> the options for a model with this config, defaults filled in for None.
    loss: (step) -> the loss of a batch, (). The default is the model's own loss.
    extra_data: (request) -> additional data, or None. Its batches are `Step.extra`.
    old_texts: (options) -> texts of what the base knows that `begin` reads, or None.
    begin: (model, texts) -> None. Called before the first step, with the model on its device and the old texts as
        batches of one sequence. `stored` includes what it leaves in the model, as a resumed run does not call it again.
    cost: (model) -> the cost per token of the model that `apply` returned; the model may be on the meta device.
    stored: (model) -> the tensors that a run stores, by their names in the model's state dict. Saving reads them,
        loading fills them in place.
    merged: (trained model) -> the model that loading a run returns; it has the class and the parameters of the model
        that `apply` received. None: loading returns the trained model itself.
    trains_all: every parameter is trained, so a finished run is a whole Hugging Face folder without a base.
    teacher: (model, new_layers) -> the base's predictions beside the model's while it trains, for rehearsal. The
        default keeps a copy of the model as it was.
    keeps_base: the base's half of every hidden state stays bitwise equal to the base's hidden state (theorem 3.1).
    size: the option that sets the number of trained parameters; None if the checkpoint alone determines it.
    yardstick: `scale plan` counts the trained parameters of an upscaling with this method. There is one each for
        "width" and "depth".
    shards: whether the model may be spread over several processes.
    paper: the paper compares it, so it is a default row of benchmarks.
    order: the position in tables and lists, lowest first. look: the appearance in figures; None: the default one.
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
    old_texts: Callable[[Any], OldTexts | None] = lambda options: None
    begin: Callable[[Any, Iterable[Mapping[str, Tensor]]], None] = lambda model, texts: None
    cost: Callable[[Any], costs.Cost] = costs.by_model
    stored: Callable[[Any], dict[str, Tensor]] = trained_parameters
    merged: Callable[[Any], Any] | None = None
    trains_all: bool = False
    teacher: Callable[[Any, Sequence[int]], Teacher] = frozen_copy
    keeps_base: bool = False
    size: Size | None = None
    yardstick: bool = False
    shards: bool = True
    paper: bool = False
    order: int = 1000
    look: Look | None = None
