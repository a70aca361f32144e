"""Models, texts and benchmark data from public packages, available without a hub."""
