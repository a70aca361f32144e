"""The drift of a checkpoint from its base: hidden states and predictions on the same texts, and weights.

These are the measures of SCALE's Figs. 4 and 7 (arXiv 2511.03270), also by layer, and differences of predictions.
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
from torch import Tensor
from torch.nn import functional

from scale_cli.checkpoints.load import config_of, load_tokenizer
from scale_cli.core.errors import RequestError
from scale_cli.data.corpora import Corpus
from scale_cli.data.windows import WindowOptions, Windows, lead_token, ratio, rows_for, sum_over_processes
from scale_cli.evaluation.base import BasePlan, plan_base
from scale_cli.evaluation.evaluate import Advance, Outcome
from scale_cli.evaluation.subject import DTYPES, Subject, Target
from scale_cli.model import ScaleForCausalLM, family_of
from scale_cli.model.families import ROLES, module_of
from scale_cli.results.measurement import Measurement
from scale_cli.results.result import Result

DEFAULT_TOKENS = 65_536


@dataclass(eq=False)
class DriftJob:
    """A `Job` that measures the drift of checkpoints from their base.

    corpora: texts on which both models are compared: the first `tokens` of each, in windows that do not overlap.
    base: the checkpoint to compare with; None for the only untrained plain one of several, else for each checkpoint's
        own base.
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
        """The tasks of its measurements in results."""
        return [*map(self.task, self.corpora), self.label]

    def plan(self, target: Target) -> BasePlan:
        """The base that a checkpoint is compared with. Raises RequestError as `plan_base`."""
        return plan_base(target.checkpoint, self.base or target.listed_base)

    def prepare(self, targets: Sequence[Target]) -> None:
        """Raise RequestError if a checkpoint's base is unknown or has other sizes, or if windows exceed its length."""
        for target in targets:
            self.plan(target)
            if self.corpora:
                self.options.resolve(config_of(target.checkpoint))
                lead_token(load_tokenizer(target.checkpoint), self.options.packing, self.options.lead)

    def done(self, result: Result, target: Target, seed: int) -> bool:
        plan, config = self.plan(target), config_of(target.checkpoint)
        wanted: set[tuple[Any, ...]] = {(self.label, plan.version, None, target.dtype)}
        for corpus in self.corpora:
            wanted.add((self.task(corpus), self.version(plan, corpus, config), corpus.limit, target.dtype))
        return wanted <= {(m.task, m.task_version, m.limit, m.dtype) for m in result.measurements}

    def run(self, subject: Subject, advance: Advance) -> Outcome:
        plan = self.plan(subject.target)
        base = plan.load(subject.model, dtype=DTYPES[subject.target.dtype], device=subject.device)
        measurements = measure_weights(subject, base, plan)
        for corpus in self.corpora:
            measurements += self.measure(subject, base, plan, corpus, advance)
        return Outcome(measurements)

    def task(self, corpus: Corpus) -> str:
        """The task in results of the drift on a corpus. The drift of weights has the task `label`."""
        return f"{self.label}:{corpus.name}"

    def version(self, plan: BasePlan, corpus: Corpus, config: Any) -> str:
        """The version of measurements that may be compared: same base, same texts, same windows for this config."""
        length, _ = self.options.resolve(config)
        return f"{plan.version}-{self.options.name}-{length}-{self.tokens}-{corpus.sha256[:12]}"

    def measure(
        self, subject: Subject, base: Any, plan: BasePlan, corpus: Corpus, advance: Advance = lambda **steps: None
    ) -> list[Measurement]:
        """Cosine of hidden states, divergence and agreement of predictions, with standard errors.

        base: as `plan` loads it. advance: called with the number of windows `done` and their `total`.
        cosine: of the last hidden state, after the final norm; of a widened model its original half. Its details hold
            `by_layer`: after the embedding, after each layer of the base but the last, and the last state again. New
            layers of a deepened model have no partner; their effect appears after the next layer.
        kl: KL(base || model) of the next token, in nats. agreement: the share of tokens for which both models have the
            same most probable token.
        All are means over the positions from which a token of the texts is predicted. Documents are the units of the
        standard errors. `hidden_states_equal` in the details: whether all compared states are bitwise equal.
        """
        begun = time.perf_counter()
        length, _ = self.options.resolve(subject.model.config)
        windows = Windows(
            corpus.documents,
            subject.tokenizer,
            length=length,
            stride=length,
            packing=self.options.packing,
            lead=self.options.lead,
            max_tokens=self.tokens,
        )
        rows = subject.batch_size or rows_for(subject.model, length)
        partners = layer_partners(subject.model, subject.target.checkpoint.new_layers)
        comparison = compare(base, subject.model, partners, windows, rows, advance)
        seconds = time.perf_counter() - begun
        counts = windows.lengths
        details = {
            "base": plan.source,
            "source": corpus.source,
            "sha256": corpus.sha256,
            "tokens": int(counts.sum()),
            "length": length,
            "packing": self.options.packing,
            "hidden_states_equal": comparison.equal,
        }
        by_layer = {"by_layer": [ratio(sums, counts)[0] for sums in comparison.cosines]}
        numbers: list[tuple[str, np.ndarray, bool, dict[str, Any]]] = [
            ("cosine", comparison.cosines[-1], True, by_layer),
            ("kl", comparison.divergences, False, {}),
            ("agreement", comparison.agreements, True, {}),
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
                routed=float(comparison.preserved.sum() / counts.sum()) if subject.has_routed else None,
                details=details | more,
            )
            for metric, sums, higher, more in numbers
            for value, stderr in [ratio(sums, counts)]
        ]


# -- on texts ------------------------------------------------------------------------------------------------------


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
    """Compare both models on all windows, `rows` per forward pass.

    partners: pairs of hidden states to compare, as indices into the base's and the model's `hidden_states`.
    """
    cosines = [windows.sums() for _ in partners]
    divergences, agreements, preserved = windows.sums(), windows.sums(), windows.sums()
    unequal = torch.zeros(1)
    for batch in windows.batches(rows, model.device, advance):
        base_output, output = (batch.forward(which, output_hidden_states=True) for which in (base, model))
        owners = batch.owners.cpu()
        for sums, (base_index, index) in zip(cosines, partners, strict=True):
            x, y = base_output.hidden_states[base_index], output.hidden_states[index]
            unequal += not torch.equal(x, y)
            x, y = batch.rows_of(x), batch.rows_of(y)
            for chunk in batch.chunks():
                positions = batch.positions[chunk]
                sums.index_add_(0, owners[chunk], cosine(x[positions], y[positions]).cpu())
        p, q = batch.rows_of(base_output.logits), batch.rows_of(output.logits)
        for chunk in batch.chunks():
            positions = batch.positions[chunk]
            divergence, same = divergence_and_agreement(p[positions], q[positions])
            divergences.index_add_(0, owners[chunk], divergence.double().cpu())
            agreements.index_add_(0, owners[chunk], same.double().cpu())
        if getattr(output, "preserved", None) is not None:
            preserved.index_add_(0, owners, batch.rows_of(output.preserved)[batch.positions].double().cpu())
    over_processes: Callable[[Tensor], np.ndarray] = lambda sums: sum_over_processes(sums, model.device)  # noqa: E731
    return Comparison(
        cosines=[over_processes(sums) for sums in cosines],
        divergences=over_processes(divergences),
        agreements=over_processes(agreements),
        preserved=over_processes(preserved),
        equal=not over_processes(unequal).any(),
    )


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """The cosine between x and y (n, features) in float64, (n,). For equal vectors it is exactly 1, two zero vectors
    included; of one zero vector and another one it is 0.
    """
    x, y = x.double(), y.double()
    # The root of the product, because the root of a square is exact and a product of two roots is not.
    norms = ((x * x).sum(-1) * (y * y).sum(-1)).sqrt()
    return torch.where(norms == 0, (x == y).all(-1).double(), (x * y).sum(-1) / norms)


def divergence_and_agreement(base: Tensor, model: Tensor) -> tuple[Tensor, Tensor]:
    """KL(base || model) in nats and whether the arg-max is equal, (n,) each, from logits (n, vocabulary)."""
    p, q = (functional.log_softmax(t.to(torch.promote_types(t.dtype, torch.float32)), dim=-1) for t in (base, model))
    divergence = functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    return divergence, base.argmax(-1) == model.argmax(-1)


def layer_partners(model: Any, new_layers: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of corresponding hidden states, as indices into the base's and the model's `hidden_states`.

    A base of L layers has L + 1 pairs: after the embedding, after every layer but the last, and after the final norm.
    """
    count = model.config.num_hidden_layers
    old = [layer for layer in range(count) if layer not in new_layers]
    middle = [(k, layer + 1) for k, layer in enumerate(old[:-1], 1)]
    return [(0, 0), *middle, (len(old), count)]


# -- of weights ----------------------------------------------------------------------------------------------------


class MapNorm(NamedTuple):
    """A norm of one linear map. metric: kind of norm. layer, name, module: of the map."""

    metric: str
    layer: int
    name: str
    module: str
    value: float


def measure_weights(subject: Subject, base: Any, plan: BasePlan) -> list[Measurement]:
    """Mean norms of added and of changed weights, separately for attention and feed-forward.

    Each norm is the Frobenius norm of one linear map's weight. The mean is over the maps of all layers; details hold
    the mean of each of `layers`, and of each map's name (q, k, v, o, gate, up, down, or qkv if fused).
    Metrics of a widened model: w12_norm, w21_norm, w22_norm, and expansion_norm for the three together; a missing W12
    counts as zero. Of a deepened model: expansion_norm, of the maps of new layers. Of every model that is not widened:
    weight_change, the norm of the difference to the base, in the layers that both have.
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
        for metric, norms_of_metric in _grouped(norms, "metric")
        for module, group in _grouped(norms_of_metric, "module")
    ]


@torch.inference_mode()
def expansion_norms(model: ScaleForCausalLM) -> Iterator[MapNorm]:
    """The norms of W12, W21 and W22, and of the three together, for every map of a widened model."""
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
    """The norm of every map in a new layer, and of every other map's difference to the base's map."""
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
    """The norms grouped by a field's value, in order of first occurrence."""
    groups: dict[Any, list[MapNorm]] = defaultdict(list)
    for norm in norms:
        groups[getattr(norm, by)].append(norm)
    return list(groups.items())
