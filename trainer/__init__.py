"""The training program: everything that makes, scores and uses one network; it knows no search.

`config/` is what a training is given, `data/` what it learns from, `fit` the loop. `step` is one
optimiser step (`losses`, `augment`, `adamw`, `ema`, on a `flat_model`); `schedules` give its
learning rate and Dice weight, `scoring` and `metrics` its scores; `history` and `checkpoint` are
kept. Commands are `train`, `evaluate`, `predict`, `check` and `probe`. Nothing here imports optuna
or `search`; what serves several trainings belongs there.
"""
