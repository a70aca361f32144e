"""The average of two models is what the mixture router with share 1 makes of one."""

from __future__ import annotations

import torch

from benchmarks.average import Average
from tests.helpers import probe, tiny_base, widened


@torch.no_grad()
def test_it_is_the_mixture_with_share_1() -> None:
    base = tiny_base("llama", dtype=torch.float64)
    model = widened(base)
    plain = widened(base)
    model.set_router({"kind": "mixture", "share": 1.0, "prior": 0.3})
    tokens = probe()
    averaged = Average(base, plain, 0.3)(input_ids=tokens).logits
    torch.testing.assert_close(averaged.double(), model(tokens).logits, rtol=1e-5, atol=1e-6)
    for weight, alone in ((1.0, base), (0.0, plain)):
        expected = alone(tokens).logits.log_softmax(-1)
        actual = Average(base, plain, weight)(input_ids=tokens).logits.double()
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
