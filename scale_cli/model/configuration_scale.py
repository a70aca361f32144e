"""The configuration of a width-upscaled causal LM: the base's own config, verbatim, and what was added to it."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .compatibility import CACHE_KEYWORDS, installed_class
from .families import MODULES, LayerShape, family_of


class OfBase:
    """An attribute of the base's config, which is read and written through the widened model's config.

    default: its value if the base has none.
    """

    def __init__(self, default: Any = None) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        if config is None:
            return self
        value = getattr(config.base, self.name, None)
        return self.default if value is None else value

    def __set__(self, config: Any, value: Any) -> None:
        if config.base is None:
            raise ValueError(
                f"{self.name} is {value}, but base_config is missing: this config is not of a widened model"
            )
        setattr(config.base, self.name, value)
        config.base_config = {**config.base_config, self.name: value}


class OwnOrOfBase:
    """An attribute with a value of its own if one was set, else the base's value. default: without either."""

    def __init__(self, default: Any) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        return self if config is None else getattr(config.base, self.name, self.default)


ROUTERS = {"cosine": ("threshold",), "mixture": ("share", "prior"), "interpolate": ("weight",)}
"""The keys of each kind of router, in the order of the command line."""


def checked_router(router: dict[str, Any], *, has_two_paths: bool) -> dict[str, Any]:
    """The router with its defaults. Raises ValueError for an unknown kind or value.

    has_two_paths: whether some layers collaborate, so that the two paths of a cosine router differ.
    """
    kind = router.get("kind", "cosine")
    if kind not in ROUTERS or not router.keys() - {"kind"} <= set(ROUTERS[kind]):
        kinds = ", ".join(f"{name} with {' and '.join(keys)}" for name, keys in ROUTERS.items())
        raise ValueError(f"router {router}; its kinds are {kinds}")
    if kind == "interpolate":
        if not 0 <= router.get("weight", -1) <= 1:
            raise ValueError(f"router {router}; interpolation needs a weight in [0, 1]")
        return router
    if kind == "cosine":
        if "threshold" not in router:
            raise ValueError(f"router {router}; a cosine router needs its threshold")
        if not has_two_paths:
            raise ValueError(
                "a cosine router chooses between two paths; without collaborative layers there is only one"
            )
        return router
    router = {"share": 0.0, "prior": 0.5} | router
    if not 0 <= router["share"] <= 1 or not 0 < router["prior"] < 1:
        raise ValueError(f"router {router}; the share is in [0, 1], the prior above 0 and below 1")
    return router


class ScaleConfig(PreTrainedConfig):
    """Configuration of `ScaleForCausalLM` (SCALE, arXiv 2511.03270).

    base_config: the config.json of the base, verbatim. `base` is the config object that it describes.
    expansion: the sizes that are *added*: hidden_size, num_attention_heads, num_key_value_heads, intermediate_size.
    collaborative: `layers`, the indices of the layers whose W12 exists and trains, and `modules`, of "attention" and
        "ffn", which of their maps; both are empty for SCALE-Preserve.
    router: None; {"kind": "cosine", "threshold": tau} for SCALE-Route (eq. 5), the kind without "kind"; {"kind":
        "mixture", "share": s, "prior": w}, the weighted predictions of base and widened model (`mixture.py`); or
        {"kind": "interpolate", "weight": a}, their interpolated logits, Z + a (Z_A - Z).

    The sizes of the base (`vocab_size`, `hidden_size`, `num_hidden_layers`, ...) are attributes here too.
    Raises ValueError for a size that does not fit the base.
    """

    model_type = "scale"
    sub_configs: ClassVar[dict[str, Any]] = {"base": AutoConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = list(CACHE_KEYWORDS)

    base_config: dict[str, Any] | None = None
    expansion: dict[str, int] | None = None
    collaborative: dict[str, list[Any]] | None = None
    router: dict[str, Any] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.collaborative = self.collaborative or {"layers": [], "modules": []}
        self.base: Any = None  # stays so only while the library builds a default to compare with
        if self.base_config is not None:
            self.base = self.build_base_config()
            self._check()
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                if getattr(self, name) is None:
                    setattr(self, name, getattr(self.base, name, None))
        if "use_cache" in kwargs:  # the library drops it as a parameter of generation
            self.use_cache = kwargs.pop("use_cache")
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        base = self.base
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
        if self.router is not None:
            self.router = checked_router(self.router, has_two_paths=bool(layers))

    @property
    def router_kind(self) -> str | None:
        """A key of `ROUTERS`, None without a router."""
        return None if self.router is None else self.router.get("kind", "cosine")

    def build_base_config(self) -> PreTrainedConfig:
        """A new config object of the base's own class."""
        assert self.base_config is not None
        return CONFIG_MAPPING[self.base_config["model_type"]].from_dict(copy.deepcopy(self.base_config))

    @property
    def layer_types(self) -> list[str] | None:
        """The kind of attention of each layer, which the library's caches read."""
        return None if self.base is None else family_of(self.base.model_type).layer_types(self.base)

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        output.pop("base", None)  # base_config holds it, verbatim
        return output

    vocab_size = OfBase()
    hidden_size = OfBase()
    num_hidden_layers = OfBase()
    num_attention_heads = OfBase()
    num_key_value_heads = OfBase()
    head_dim = OfBase()
    max_position_embeddings = OfBase()
    sliding_window = OfBase()
    initializer_range = OfBase(default=0.02)
    tie_word_embeddings = OfBase(default=False)
    use_cache = OwnOrOfBase(default=True)


ScaleConfig = installed_class("ScaleConfig", __name__) or ScaleConfig  # type: ignore[misc]
# Once a widened model's code has run in a process, the library need not ask again, for its tokenizer for example.
AutoConfig.register("scale", ScaleConfig, exist_ok=True)
