"""The configuration of a width-upscaled causal LM: the base's own config, verbatim, and what was added to it."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .compatibility import CACHE_KEYWORDS, installed_class
from .families import MODULES, LayerShape, family_of


class ScaleConfig(PreTrainedConfig):
    """Configuration of `ScaleForCausalLM` (SCALE, arXiv 2511.03270).

    base_config: the config.json of the base, verbatim.
    expansion: what is *added*: hidden_size, num_attention_heads, num_key_value_heads, intermediate_size.
    collaborative: `layers`, the indices of the layers whose W12 exists and trains, and `modules`, of "attention" and
        "ffn", which of their maps; both empty is SCALE-Preserve.
    router: None, or {"threshold": tau} for SCALE-Route (eq. 5).

    Sizes of the base (`vocab_size`, `hidden_size`, `num_hidden_layers`, ...) can be read from here too.
    Raises ValueError when a size does not fit the base.
    """

    model_type = "scale"
    keys_to_ignore_at_inference: ClassVar[list[str]] = list(CACHE_KEYWORDS)

    base_config: dict[str, Any] | None = None
    expansion: dict[str, int] | None = None
    collaborative: dict[str, list[Any]] | None = None
    router: dict[str, float] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.collaborative = self.collaborative or {"layers": [], "modules": []}
        self._base: PreTrainedConfig | None = None
        if self.base_config is not None:  # None only while the library builds a default to compare with
            self._check()
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                if getattr(self, name) is None:
                    setattr(self, name, self._of_base(name))
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        base = self.build_base_config()
        family_of(base.model_type)
        shape = LayerShape.of(base)
        added = self.expansion or {}
        required = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
        if set(added) != set(required) or any(added[name] < 1 for name in required):
            raise ValueError(f"expansion is {added}; it needs {', '.join(required)}, each at least 1")
        if added["num_attention_heads"] != added["num_key_value_heads"] * shape.num_key_value_groups:
            raise ValueError(
                f"{added['num_attention_heads']} added query heads for {added['num_key_value_heads']} added key/value "
                f"heads; the base has groups of {shape.num_key_value_groups} query heads to a key/value head, and an "
                "added key/value head brings its whole group"
            )
        layers, modules = self.collaborative["layers"], self.collaborative["modules"]  # type: ignore[index]
        if any(not 0 <= layer < base.num_hidden_layers for layer in layers):
            raise ValueError(f"collaborative layers {layers}; the base has layers 0 to {base.num_hidden_layers - 1}")
        if not set(modules) <= set(MODULES) or bool(layers) != bool(modules):
            raise ValueError(
                f"collaborative layers {layers} with modules {modules}; name both or neither, modules of {MODULES}"
            )
        if self.router is not None and not layers:
            raise ValueError("a router chooses between two paths; without collaborative layers there is only one")

    def build_base_config(self) -> PreTrainedConfig:
        """A new config object of the base's own class."""
        assert self.base_config is not None
        return CONFIG_MAPPING[self.base_config["model_type"]].from_dict(dict(self.base_config))

    def _built(self) -> PreTrainedConfig:
        """The base's config object, built once; to read from."""
        if self._base is None:
            self._base = self.build_base_config()
        return self._base

    def _of_base(self, name: str) -> Any:
        return None if self.base_config is None else getattr(self._built(), name, None)

    def _layer_types(self) -> list[str] | None:
        """The kind of attention of each layer, which the library's caches ask for."""
        return (
            None if self.base_config is None else family_of(self.base_config["model_type"]).layer_types(self._built())
        )

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        output.pop("_base", None)
        return output

    vocab_size = property(lambda self: self._of_base("vocab_size"))
    hidden_size = property(lambda self: self._of_base("hidden_size"))
    num_hidden_layers = property(lambda self: self._of_base("num_hidden_layers"))
    num_attention_heads = property(lambda self: self._of_base("num_attention_heads"))
    num_key_value_heads = property(lambda self: self._of_base("num_key_value_heads"))
    head_dim = property(lambda self: self._of_base("head_dim"))
    max_position_embeddings = property(lambda self: self._of_base("max_position_embeddings"))
    sliding_window = property(lambda self: self._of_base("sliding_window"))
    layer_types = property(_layer_types)
    initializer_range = property(lambda self: self._of_base("initializer_range") or 0.02)


ScaleConfig = installed_class("ScaleConfig", __name__) or ScaleConfig  # type: ignore[misc]
# Once a widened model's code runs in a process, the library need not ask again: for its tokenizer, say.
AutoConfig.register("scale", ScaleConfig, exist_ok=True)
