"""What a trial will come to: recorded curves, features, the model, priors, a study's forecast.

`banks/` holds the recorded curves that ship.
"""
