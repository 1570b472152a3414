"""Repeats with fresh seeds: which configurations, how often, and what they came to."""
