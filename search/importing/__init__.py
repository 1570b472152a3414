"""Results of another trainer, as a study of their own metric."""
