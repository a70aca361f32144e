"""How far a checkpoint has moved from its base: hidden states and predictions on the same texts, and weights.

The measures of SCALE's Figs. 4 and 7 (arXiv 2511.03270), per layer as well, and how the predictions differ.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scale_cli.checkpoints.card import history
from scale_cli.checkpoints.load import Checkpoint, config_of, describe, load_model, load_tokenizer
from scale_cli.core.errors import RequestError
from scale_cli.data.corpora import Corpus
from scale_cli.data.windows import WindowOptions, Windows, lead_token, ratio, rows_for, total
from scale_cli.evaluation.evaluate import Advance, Outcome
from scale_cli.evaluation.subject import DTYPES, Subject, Target, fingerprint
from scale_cli.model import ScaleConfig, ScaleForCausalLM, family_of
from scale_cli.model.families import ROLES, module_of
from scale_cli.results.measurement import Measurement
from scale_cli.results.result import Result

DEFAULT_TOKENS = 65_536


@dataclass(frozen=True)
class BasePlan:
    """With what a checkpoint is compared, known before anything is loaded.

    source: the checkpoint that the base is taken from.
    checkpoint: the same, None where it is the model itself, of which the base is the half that widening froze.
    version: tells this base from another.
    """

    source: str
    checkpoint: Checkpoint | None
    version: str

    def load(self, subject: Subject) -> Any:
        """The base's model, in the subject's dtype on its device; without the layers that deepening added."""
        if self.checkpoint is None:
            return subject.model.base
        model = load_model(self.checkpoint, dtype=DTYPES[subject.target.dtype])
        return without_layers(model, self.checkpoint.new_layers).to(subject.device)


def plan_base(checkpoint: Checkpoint, given: str | None) -> BasePlan:
    """The base of a checkpoint: `given`, or None for its own.

    Its own is the half of a widened model that never trains, the old layers of a deepened one, and what a run that
    trained a part of a plain model began with.
    Raises RequestError where it has none, or where the one given has other sizes.
    """
    sizes = _sizes(checkpoint)
    if given is not None:
        base = describe(given)
        if _sizes(base) != sizes:
            raise RequestError(
                f"--base {given} has {_listed(_sizes(base))}, and {checkpoint.source}, without what was added, has "
                f"{_listed(sizes)}; give the checkpoint it was made from"
            )
        return BasePlan(given, base, f"base-{fingerprint(base)[:12]}")
    if checkpoint.kind == "width":
        return BasePlan(checkpoint.source, None, "base-own")
    root, *runs = checkpoint.chain
    trainings = [step["recipe"]["method"] for step in history(root.folder) if step["step"] == "train"]
    is_left = bool(runs) if checkpoint.kind == "plain" else "fft" not in trainings
    if not is_left or any(run.from_scratch for run in runs):
        raise RequestError(
            f"--drift: {checkpoint.source} is a whole model without its base in it; name the checkpoint to compare it "
            "with: --base BASE"
        )
    return BasePlan(root.source, root, "base-own")


def _sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint and its base have in common. RequestError for a model whose layers we cannot find."""
    config = config_of(checkpoint)
    own = config.build_base_config() if isinstance(config, ScaleConfig) else config
    try:
        family_of(own.model_type)
    except ValueError as error:
        raise RequestError(f"--drift: {checkpoint.source}: {error}") from error
    return {
        "model_type": own.model_type,
        "num_hidden_layers": own.num_hidden_layers - len(checkpoint.new_layers),
        "hidden_size": own.hidden_size,
        "vocab_size": own.vocab_size,
    }


def _listed(sizes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sizes.items())


def without_layers(model: Any, layers: Sequence[int]) -> Any:
    """The model with these decoder layers taken out, in place."""
    if layers:
        family, config = family_of(model.config.model_type), model.config
        kept = [i for i in range(config.num_hidden_layers) if i not in layers]
        blocks = family.layers_of(model)
        setattr(family.decoder_of(model), family.layers, nn.ModuleList(blocks[i] for i in kept))
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[i] for i in kept]
        config.num_hidden_layers = len(kept)
    return model


@dataclass(eq=False)
class DriftJob:
    """The drift of checkpoints from their base; a `Job`.

    corpora: on the first `tokens` of each of them both models are compared, in windows that do not overlap.
    base: the checkpoint to compare with, None for each one's own.
    """

    corpora: Sequence[Corpus]
    options: WindowOptions
    base: str | None = None
    tokens: int = DEFAULT_TOKENS
    label: str = field(default="drift", init=False)
    spread: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise RequestError(f"--drift-tokens {self.tokens}: at least 1")

    @property
    def tasks(self) -> list[str]:
        """The tasks of its numbers in results."""
        return [*map(self.task, self.corpora), self.label]

    def prepare(self, targets: Sequence[Target]) -> None:
        """Raise RequestError for a checkpoint whose base is not known or of other sizes, and for windows it lacks."""
        for target in targets:
            plan_base(target.checkpoint, self.base)
            if self.corpora:
                self.options.resolve(config_of(target.checkpoint))
                lead_token(load_tokenizer(target.checkpoint), self.options.packing)

    def done(self, result: Result, target: Target, seed: int) -> bool:
        plan, config = plan_base(target.checkpoint, self.base), config_of(target.checkpoint)
        wanted: set[tuple[Any, ...]] = {(self.label, plan.version, None, target.dtype)}
        for corpus in self.corpora:
            wanted.add((self.task(corpus), self.version(plan, corpus, config), corpus.limit, target.dtype))
        return wanted <= {(m.task, m.task_version, m.limit, m.dtype) for m in result.measurements}

    def run(self, subject: Subject, advance: Advance) -> Outcome:
        plan = plan_base(subject.target.checkpoint, self.base)
        base = plan.load(subject)
        measurements = measure_weights(subject, base, plan)
        for corpus in self.corpora:
            measurements += self.measure(subject, base, plan, corpus, advance)
        return Outcome(measurements)

    def task(self, corpus: Corpus) -> str:
        """What results call the drift on a corpus; that of weights is `label` alone."""
        return f"{self.label}:{corpus.name}"

    def version(self, plan: BasePlan, corpus: Corpus, config: Any) -> str:
        """What numbers share that may be compared: base and texts, and what a model of this config sees of them."""
        length, _ = self.options.resolve(config)
        return f"{plan.version}-{self.options.packing}-{length}-{self.tokens}-{corpus.sha256[:12]}"

    def measure(
        self, subject: Subject, base: Any, plan: BasePlan, corpus: Corpus, advance: Advance = lambda **steps: None
    ) -> list[Measurement]:
        """The cosine of hidden states, the divergence of predictions, and how often they agree, with standard errors.

        base: as `plan` loads it. advance: called with windows `done` and the `total` of them.
        cosine: of the last hidden state, behind the final norm, its original half where the model is widened. Its
            details hold `by_layer`: after the embedding, after each layer of the base but the last, and this one again.
            New layers of a deepened model have no partner; what they do is seen behind the next layer.
        kl: KL(base || model) of the next token, in nats. agreement: the share of tokens at which both find the same one
            most probable.
        All are means over the positions from which a token of the texts is predicted, with documents as the units of
        the standard errors. `hidden_states_equal` in the details: whether all states compared are bitwise equal.
        """
        begun = time.perf_counter()
        length, _ = self.options.resolve(subject.model.config)
        windows = Windows(
            corpus.documents,
            subject.tokenizer,
            length=length,
            stride=length,
            packing=self.options.packing,
            max_tokens=self.tokens,
        )
        rows = subject.batch_size or rows_for(subject.model, length)
        partners = layer_partners(subject.model, subject.target.checkpoint.new_layers)
        found = compare(base, subject.model, partners, windows, rows, advance)
        seconds = time.perf_counter() - begun
        counts = windows.lengths
        details = {
            "base": plan.source,
            "source": corpus.source,
            "sha256": corpus.sha256,
            "tokens": int(counts.sum()),
            "length": length,
            "packing": self.options.packing,
            "hidden_states_equal": found.equal,
        }
        by_layer = {"by_layer": [ratio(sums, counts)[0] for sums in found.cosines]}
        numbers: list[tuple[str, np.ndarray, bool, dict[str, Any]]] = [
            ("cosine", found.cosines[-1], True, by_layer),
            ("kl", found.divergences, False, {}),
            ("agreement", found.agreements, True, {}),
        ]
        return [
            Measurement(
                task=self.task(corpus),
                metric=metric,
                value=value,
                stderr=stderr,
                samples=len(counts),
                higher_is_better=higher,
                dtype=subject.target.dtype,
                batch_size=rows,
                seconds=seconds,
                task_version=self.version(plan, corpus, subject.model.config),
                limit=corpus.limit,
                routed=float(found.preserved.sum() / counts.sum()) if subject.has_router else None,
                details=details | more,
            )
            for metric, sums, higher, more in numbers
            for value, stderr in [ratio(sums, counts)]
        ]


# -- what texts show -----------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """Sums over the tokens of each document, (documents,) in float64 each.

    cosines: of each pair of hidden states. divergences: KL(base || model), nats. agreements: equal arg-max tokens.
    preserved: tokens that a router sent to the preserve branch.
    equal: whether all pairs of hidden states are bitwise the same everywhere.
    """

    cosines: list[np.ndarray]
    divergences: np.ndarray
    agreements: np.ndarray
    preserved: np.ndarray
    equal: bool


@torch.inference_mode()
def compare(
    base: Any,
    model: Any,
    partners: Sequence[tuple[int, int]],
    windows: Windows,
    rows: int,
    advance: Advance = lambda **steps: None,
) -> Comparison:
    """Both models over all windows, `rows` in a forward pass.

    partners: the hidden states to compare, each by its indices in what the base and what the model puts out.
    """
    cosines = [windows.sums() for _ in partners]
    divergences, agreements, preserved = windows.sums(), windows.sums(), windows.sums()
    unequal = torch.zeros(1)
    for batch in windows.batches(rows, model.device, advance):
        theirs, ours = (batch.forward(which, output_hidden_states=True) for which in (base, model))
        owners = batch.owners.cpu()
        for sums, (theirs_at, ours_at) in zip(cosines, partners, strict=True):
            x, y = theirs.hidden_states[theirs_at], ours.hidden_states[ours_at]
            unequal += not torch.equal(x, y)
            x, y = batch.rows_of(x), batch.rows_of(y)
            for chunk in batch.chunks():
                at = batch.positions[chunk]
                sums.index_add_(0, owners[chunk], cosine(x[at], y[at]).cpu())
        p, q = batch.rows_of(theirs.logits), batch.rows_of(ours.logits)
        for chunk in batch.chunks():
            at = batch.positions[chunk]
            divergence, same = divergence_and_agreement(p[at], q[at])
            divergences.index_add_(0, owners[chunk], divergence.double().cpu())
            agreements.index_add_(0, owners[chunk], same.double().cpu())
        if getattr(ours, "preserved", None) is not None:
            preserved.index_add_(0, owners, batch.rows_of(ours.preserved)[batch.positions].double().cpu())
    of_all: Callable[[Tensor], np.ndarray] = lambda sums: total(sums, model.device)  # noqa: E731
    return Comparison(
        cosines=[of_all(sums) for sums in cosines],
        divergences=of_all(divergences),
        agreements=of_all(agreements),
        preserved=of_all(preserved),
        equal=not of_all(unequal).any(),
    )


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """The cosine between x and y (n, features) in float64, (n,); of equal vectors it is 1 and not nearly so."""
    x, y = x.double(), y.double()
    # One root of the product, not a product of roots: the root of a square is exact.
    return (x * y).sum(-1) / ((x * x).sum(-1) * (y * y).sum(-1)).sqrt()


def divergence_and_agreement(base: Tensor, model: Tensor) -> tuple[Tensor, Tensor]:
    """KL(base || model) in nats and whether the arg-max is the same, (n,) each, from logits (n, vocabulary)."""
    p, q = (functional.log_softmax(t.to(torch.promote_types(t.dtype, torch.float32)), dim=-1) for t in (base, model))
    divergence = functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    return divergence, base.argmax(-1) == model.argmax(-1)


def layer_partners(model: Any, new_layers: Sequence[int]) -> list[tuple[int, int]]:
    """The hidden states of base and model that belong together, by their indices in what both put out.

    For the L layers of the base these are L + 1: after the embedding, after every layer but the last, and after the
    final norm.
    """
    count = model.config.num_hidden_layers
    old = [layer for layer in range(count) if layer not in new_layers]
    middle = [(k, layer + 1) for k, layer in enumerate(old[:-1], 1)]
    return [(0, 0), *middle, (len(old), count)]


# -- what weights show ---------------------------------------------------------------------------------------------


class MapNorm(NamedTuple):
    """A norm that belongs to one linear map: of what, the map's layer, its name there, and its module."""

    metric: str
    layer: int
    name: str
    module: str
    value: float


def measure_weights(subject: Subject, base: Any, plan: BasePlan) -> list[Measurement]:
    """Mean norms of what was added and of what has changed, of attention and feed-forward apart.

    Norms are Frobenius norms of the weights of single linear maps, their means go over the maps of all layers; details
    hold the mean of each of `layers`, and that of each map's name (q, k, v, o, gate, up, down, qkv where it is fused).
    Of a widened model: w12_norm, w21_norm and w22_norm, and expansion_norm, of the three together; a W12 that is not
    there is zero. Of a deepened one: expansion_norm, of the maps of new layers. Of any but a widened one:
    weight_change, of the difference to the base, in the layers that both have.
    """
    begun = time.perf_counter()
    checkpoint = subject.target.checkpoint
    if checkpoint.kind == "width":
        norms = list(expansion_norms(subject.model))
    else:
        norms = list(layer_norms(subject.model, checkpoint.new_layers, base))
    seconds = time.perf_counter() - begun
    return [
        Measurement(
            task="drift",
            metric=f"{metric}/{module}",
            value=_mean(group),
            stderr=None,
            samples=len(group),
            higher_is_better=False,
            dtype=subject.target.dtype,
            batch_size=0,
            seconds=seconds,
            task_version=plan.version,
            details={
                "base": plan.source,
                "layers": [layer for layer, _ in _grouped(group, "layer")],
                "by_layer": [_mean(part) for _, part in _grouped(group, "layer")],
                "by_map": {name: _mean(part) for name, part in _grouped(group, "name")},
            },
        )
        for metric, of_metric in _grouped(norms, "metric")
        for module, group in _grouped(of_metric, "module")
    ]


@torch.inference_mode()
def expansion_norms(model: ScaleForCausalLM) -> Iterator[MapNorm]:
    """Of every map of a widened model the norms of W12, W21 and W22, and that of the three together."""
    for index, layer in enumerate(model.expansion.layers):
        for role in ROLES:
            linear = getattr(layer, role, None)
            if linear is not None:
                norms = {f"{name}_norm": _norm(getattr(linear, name)) for name in ("w12", "w21", "w22")}
                norms["expansion_norm"] = math.hypot(*norms.values())
                for metric, value in norms.items():
                    yield MapNorm(metric, index, role, module_of(role), value)


@torch.inference_mode()
def layer_norms(model: Any, new_layers: Sequence[int], base: Any) -> Iterator[MapNorm]:
    """Of every map in a new layer its norm, and of every other map that of its difference to the base's."""
    base = base.base if isinstance(base, ScaleForCausalLM) else base
    family = family_of(model.config.model_type)
    roles = {path: role for role in reversed(ROLES) if (path := family.path(role)) is not None}
    base_layers = iter(family.layers_of(base))
    for index, layer in enumerate(family.layers_of(model)):
        base_layer = None if index in new_layers else next(base_layers)
        for path in family.linear_paths():
            weight: Tensor = layer.get_parameter(f"{path}.weight")
            if base_layer is not None:
                weight = weight.double() - base_layer.get_parameter(f"{path}.weight").double()
            metric = "expansion_norm" if base_layer is None else "weight_change"
            name = "qkv" if path == family.qkv else roles[path]
            yield MapNorm(metric, index, name, module_of(roles[path]), _norm(weight))


def _norm(weight: Tensor | None) -> float:
    return 0.0 if weight is None else torch.linalg.vector_norm(weight, dtype=torch.float64).item()


def _mean(norms: Sequence[MapNorm]) -> float:
    return math.fsum(norm.value for norm in norms) / len(norms)


def _grouped(norms: Sequence[MapNorm], by: str) -> list[tuple[Any, list[MapNorm]]]:
    """The norms by a field's value, in the order in which the values come."""
    groups: dict[Any, list[MapNorm]] = defaultdict(list)
    for norm in norms:
        groups[getattr(norm, by)].append(norm)
    return list(groups.items())
