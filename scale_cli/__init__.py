"""SCALE: widen a causal language model without changing what it computes, and train only what was added."""

__version__ = "0.1.0"
