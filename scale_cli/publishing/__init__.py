"""What leaves the tool: whole Hugging Face folders of any checkpoint, the base taken back, and the way to the hub."""
