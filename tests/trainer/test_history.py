"""The rows of a history, and the best of them."""

from __future__ import annotations

from trainer import history


def test_the_earliest_of_equal_epochs_is_the_best() -> None:
    rows = [{"epoch": epoch, "val_f": f} for epoch, f in ((1, 0.5), (2, 0.7), (3, 0.7), (4, 0.6))]
    assert history.best_epoch(history.f_scores(rows)) == 2


def test_a_training_on_all_data_has_no_best_epoch() -> None:
    assert history.f_scores([{"epoch": 1, "train_loss": 2.0}]) == {}
    assert history.best_epoch({}) is None
