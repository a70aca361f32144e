"""The documentation: pages of the site, and the scripts that generate and build them."""
