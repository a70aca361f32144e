"""A type for one measurement, a type for the measurements of a checkpoint, and one tidy table of all of them."""
