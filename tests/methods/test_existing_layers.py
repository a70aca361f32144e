"""Training of existing layers, the control for LLaMA Pro."""

from __future__ import annotations

import pytest

from scale_cli.core.errors import RequestError
from scale_cli.methods import METHODS, method_options
from scale_cli.surgery.depth import new_layers, plan_depth
from tests.helpers import tiny_base
from tests.methods.test_methods import BLOCKS, applied, blocks, trained


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_existing_layers_are_those_that_llama_pro_would_copy(name: str, count: int) -> None:
    """As many parameters as its new blocks have, at the depths after which they stand."""
    model = applied("existing-layers", tiny_base(name, num_hidden_layers=12), train_layers=count)
    copied = plan_depth(12, layers=12 + count)
    assert trained(model) == blocks(name, tuple(copied))
    pro = applied("llama-pro", tiny_base(name, num_hidden_layers=12 + count), tuple(new_layers(copied)))
    sizes = [sum(p.numel() for p in each.parameters() if p.requires_grad) for each in (model, pro)]
    assert sizes[0] == sizes[1]


def test_a_quarter_of_the_layers_is_trained_unless_given() -> None:
    for layers, expected in ((3, 1), (8, 2), (12, 3)):
        config = tiny_base("llama", num_hidden_layers=layers).config
        options = METHODS["existing-layers"].resolve(method_options({})["existing-layers"], config)
        assert options.train_layers == expected
    with pytest.raises(RequestError, match=r"^--train-layers 4: the model has 3 layers; choose 1 to 3$"):
        applied("existing-layers", tiny_base("llama"), train_layers=4)
