"""One type for a measured number, one for the numbers of a checkpoint, one tidy table of them."""
