"""One checkpoint measured and exported under other routers than its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scale_cli.checkpoints.export import export
from scale_cli.core.errors import RequestError
from scale_cli.data.corpora import Corpus
from scale_cli.data.windows import WindowOptions
from scale_cli.evaluation.evaluate import evaluate
from scale_cli.evaluation.perplexity import PerplexityJob
from scale_cli.evaluation.subject import targets
from tests.runs import Run, reload

Finished = Callable[..., Run]
TEXTS = Corpus("texts", "texts.txt", ("Anna was born in Rome.", "She studied law there, and music."))


@pytest.mark.parametrize("method", ["scale-preserve", "scale-adapt", "scale-route"])
def test_routers_are_measured_side_by_side(method: str, finished: Finished, tmp_path: Path) -> None:
    folder = finished(method).folder
    routers = ["none", "mixture:0", "mixture:1:0.25"] + ["cosine:0.9"] * (method != "scale-preserve")
    job = PerplexityJob(TEXTS, WindowOptions(64, packing="documents"))
    results = evaluate([f"run={folder}"], [job], routers=routers, out=tmp_path)
    assert [result.checkpoint.label for result in results] == [f"run-{r.replace(':', '-')}" for r in routers]
    assert [result.checkpoint.router for result in results] == routers
    assert len({result.checkpoint.fingerprint for result in results}) == len(routers)
    model = reload(folder)
    losses = {}
    for text, result in zip(routers, results, strict=True):
        (bits, perplexity) = (result.find("perplexity:texts", name)[0] for name in ("bits_per_byte", "perplexity"))
        losses[text] = perplexity.details["nll"]
        assert (bits.routed is None) == (text == "none")
        if text == "mixture:1:0.25":
            assert bits.routed == pytest.approx(0.25)
    model.set_router({"kind": "mixture", "share": 0.0, "prior": 0.5})
    export(str(folder), tmp_path / "exported", router="mixture:0")
    assert reload(tmp_path / "exported").config.router == model.config.router
    (again,) = evaluate([str(tmp_path / "exported")], [job])
    assert again.find("perplexity:texts")[0].details["nll"] == losses["mixture:0"]
    assert evaluate([f"run={folder}"], [job], routers=routers, out=tmp_path) == results


@pytest.mark.parametrize(
    ("text", "method", "message"),
    [
        ("mixture:0", "lora", "--router mixture:0: .* is not width-upscaled, so it has one prediction only"),
        ("cosine:0.5", "scale-preserve", "a cosine router chooses between two paths"),
        ("mixture:2", "scale-preserve", r"the share is in \[0, 1\]"),
        ("mixture:0:1", "scale-adapt", "the prior above 0 and below 1"),
        ("mixture", "scale-adapt", "--router mixture: choose none, cosine:TAU, or mixture:SHARE"),
        ("none:1", "scale-adapt", "--router none:1: choose none"),
        ("average", "scale-adapt", "--router average: choose none"),
        ("mixture:x", "scale-adapt", "--router mixture:x: choose none"),
    ],
)
def test_a_router_that_does_not_fit_is_refused(
    text: str, method: str, message: str, finished: Finished, tmp_path: Path
) -> None:
    source = str(finished(method).folder)
    with pytest.raises(RequestError, match=message):
        targets([source], routers=[text], dtype=None, device=torch.device("cpu"))
    with pytest.raises(RequestError, match=message):
        export(source, tmp_path / "out", router=text)
    assert not (tmp_path / "out").exists()
