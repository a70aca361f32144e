"""The behaviour of the libraries that are used."""

from __future__ import annotations

import warnings


def quiet_libraries() -> None:
    """Turn off the libraries' own progress bars and messages, which ours replace. Imports transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # raised inside peft
