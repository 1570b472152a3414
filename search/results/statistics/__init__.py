"""Statistics of scores: intervals, sequential plans, verdicts, correlations, smoothing."""
