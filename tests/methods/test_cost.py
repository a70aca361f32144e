"""The cost model, with numbers put in."""

from __future__ import annotations

import pytest

from scale_cli.methods import METHODS
from scale_cli.methods.cost import Weights, multiply_adds

N, E, SHARE, ABOVE = 1000, 100, 0.25, 600
COSTS = {
    "fft": 6000,
    "lora": 4600,
    "freeze": 2000 + 2400,
    "llama-pro": 2 * 1100 + 2 * 600 + 2 * 100,
    "scale-preserve": 2600,
    "scale-adapt": 2600 + 500,
    "scale-route": 2600 + 1000 + 150,
}


def test_what_a_token_costs() -> None:
    weights = Weights(N, added=E, adaptable_share=SHARE, above=ABOVE)
    assert {method: multiply_adds(method, weights) for method in METHODS} == COSTS
    with pytest.raises(KeyError):
        multiply_adds("ftt", weights)


def test_a_head_that_is_frozen_above_the_frozen_layers_needs_no_gradient_of_its_own() -> None:
    assert multiply_adds("freeze", Weights(N, above=ABOVE, frozen_above=50)) == 2000 + 2400 - 100
