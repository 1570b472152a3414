"""The service: Optuna meets the trainer here, and nowhere else."""
