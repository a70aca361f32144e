"""The environment variables by which `python -m tests.common` tells the suite what to run."""

SOURCE = "SCALE_COMMON_SOURCE"
"""The folder with the library's `tests`."""
PACKAGES = "SCALE_COMMON_PACKAGES"
"""The folder with the packages that they import beyond ours."""
FAMILY = "SCALE_COMMON_FAMILY"
"""The model_type of the base."""
