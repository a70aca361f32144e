"""Models, texts and benchmark data that can be had without a hub, from public packages."""
