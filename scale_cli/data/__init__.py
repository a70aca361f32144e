"""Text and tokens, for training and evaluation alike: sources, tokens, packing, examples, windows, biographies."""
