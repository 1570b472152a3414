"""How workers start: local processes, a Ray cluster, and how many a device carries."""
