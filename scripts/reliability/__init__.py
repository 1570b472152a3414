"""Real searches that are killed (`scripts/torture`) or go on for long (`scripts/soak`)."""
