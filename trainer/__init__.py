"""The training program: config, data, network, losses, scores, fit. Knows nothing of Optuna."""
