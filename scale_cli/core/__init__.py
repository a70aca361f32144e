"""The ground floor: errors, files, the hub, recipes, records, versions of libraries. Loads no torch."""
