from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import space
from search.study.search_space import (
    describe,
    distribution,
    inside,
    matching,
    nearest_end,
    resolve,
    same_kind,
    widened,
)
from space import Choice, Float, Int
from trainer.config import Config, get, key_path, with_values
from trainer.errors import ConfigError

CONFIG = with_values(Config(), {"epochs": 12})


def refused(*fixes: str, ranges: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(CONFIG, fixes, ranges)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_name_of_the_space_is_a_key_of_the_config() -> None:
    for name in space.SPACE:
        assert key_path(name)
    assert list(resolve(CONFIG).specs) == list(space.SPACE)


def test_T_0_is_a_choice_among_shares_of_the_budget() -> None:
    assert resolve(CONFIG).specs["T_0"] == Choice((12, 6, 4, 3, 2.4, 2))


def test_range_of_T_0_makes_it_whole_epochs() -> None:
    specs = resolve(CONFIG, ranges=("T_0=2:12",) if False else (), fixes=()).specs
    assert isinstance(specs["T_0"], Choice)
    whole = resolve(CONFIG, ranges=("T_0=2:12",)).specs["T_0"]
    assert whole == Int(2, 12)
    assert isinstance(distribution(whole), IntDistribution)
    assert "longer than the budget" in refused(ranges=("T_0=2:99",))
    assert "whole" in refused(ranges=("T_0=2.5:6",))


def test_range_takes_any_other_numeric_key_of_the_config() -> None:
    searched = resolve(CONFIG, ranges=("training.learning_rate=1e-4:5e-3:log", "rotation=0:30"))
    assert searched.specs["learning_rate"] == Float(1e-4, 5e-3, log=True)
    assert searched.specs["rotation"] == Float(0.0, 30.0)
    assert searched.defaults()["learning_rate"] == get(CONFIG, "learning_rate")


def test_a_line_added_to_the_space_is_searched() -> None:
    table = {**space.SPACE, "learning_rate": Float(1e-4, 5e-3, log=True)}
    assert resolve(CONFIG, table=table).specs["learning_rate"].log  # type: ignore[union-attr]


def test_range_keeps_the_logarithmic_scale_of_the_space() -> None:
    assert resolve(CONFIG, ranges=("weight_decay=1e-4:1e-3",)).specs["weight_decay"] == Float(
        1e-4, 1e-3, log=True
    )
    assert "log scale needs low > 0" in refused(ranges=("weight_decay=0:1e-3",))


def test_fix_records_the_value_under_the_full_range() -> None:
    searched = resolve(CONFIG, ("dropout=0.2", "dice_schedule=step", "T_0=2.4"))
    assert searched.fixed == {"dropout": 0.2, "dice_schedule": "step", "T_0": 2.4}
    assert searched.specs["dropout"] == space.SPACE["dropout"]


def test_fix_of_a_key_that_is_not_searched_changes_the_base_config() -> None:
    searched = resolve(CONFIG, ("learning_rate=1e-3",))
    assert get(searched.config, "learning_rate") == 1e-3
    assert searched.fixed == {}


@pytest.mark.parametrize(
    ("fix", "says"),
    [
        ("dropuot=0.1", "dropout"),
        ("dropout=0.9", "outside 0..0.4: name a value inside, or widen it with --range"),
        ("dropout=much", "not a number"),
        ("dropout=nan", "finite"),
        ("dropout=inf", "finite"),
        ("dropout=.nan", "finite"),
        ("dropout=1e400", "'1e400' is not a number"),
        ("dropout=0.1_5", "'0.1_5' is not a number"),
        ("learning_rate=1e-3:2", "'1e-3:2' is not a number"),
        ("dropout=[0.1]", "one value is needed"),
        ("dropout=~", "one value is needed"),
        ("dropout", "name=value"),
        ("=0.2", "name=value"),
        ("dropout=", "name=value"),
        ("dice_schedule=sine", "constant, step, linear, cosine"),
        ("T_0=7", "--range T_0=low:high"),
        ("learning_rate=-1", "learning_rate"),
        ("epochs=3", "--epochs"),
    ],
)
def test_fix_that_cannot_be_is_refused_in_one_line(fix: str, says: str) -> None:
    assert says in refused(fix)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("dice_weight=4:1", "low must be below high"),
        ("dice_weight=1", "low:high"),
        ("dice_weight=1:2:3", "low:high"),
        ("dice_weight=1:x", "numbers"),
        ("dice_weight=nan:1", "numbers"),
        ("dice_weight=0.5:1_0", "numbers"),
        ("dice_weight=0x1:4", "numbers"),
        ("dice_weight=0.5:1e400", "numbers"),
        ("weight_decay=0:1:log", "log scale needs low > 0"),
        ("dice_weight=a:b", "numbers"),
        ("dice_wieght=1:2", "dice_weight"),
        ("dice_schedule=1:2", "--fix dice_schedule"),
        ("model.name=1:2", "not a number"),
        ("image_size=16:64", "cannot be searched"),
        ("dropout=0:1.5", "dropout"),
        ("dice_weight=0.1:2", "below 0: raise dice_weight to 0.3 or narrow dice_ramp to +-0.2"),
    ],
)
def test_range_that_cannot_be_is_refused_in_one_line(given: str, says: str) -> None:
    assert says in refused(ranges=(given,))


def test_a_fixed_value_is_what_it_spells_and_a_text_stays_text() -> None:
    fixes = ("dropout='0.1'", "dice_weight=01.5", "T_0=012", "compile=no", "model.name=2024")
    searched = resolve(CONFIG, fixes)
    assert searched.fixed == {"dropout": 0.1, "dice_weight": 1.5, "T_0": 12}
    assert (searched.config.runtime.compile, searched.config.model.name) == (False, "2024")


def test_low_dice_weight_is_fine_where_the_schedule_is_constant() -> None:
    searched = resolve(CONFIG, ("dice_schedule=constant",), ("dice_weight=0.1:2",))
    assert searched.specs["dice_weight"] == Float(0.1, 2.0)


def test_matching_keeps_kinds_apart() -> None:
    assert matching(True, Float(0, 2)) is None
    assert matching(1.5, Int(1, 4)) is None
    assert matching(2.0, Int(1, 4)) == 2
    assert matching("1", Choice((1, 2))) is None
    assert matching(float("nan"), Float(0, 1)) is None


def test_nearest_end_and_widened() -> None:
    assert nearest_end(1.5, Float(2, 4)) == 2
    assert nearest_end(24, Choice((12, 6))) == 12
    assert nearest_end("x", Choice(("a", "b"))) == "a"
    assert widened(Float(0, 1), 3) == Float(0, 3)
    assert widened(Int(1, 2), 2.5) is None
    assert widened(Choice((1, 2)), 3) is None
    assert widened(Float(0.1, 1, log=True), 0) is None


def test_only_the_ends_of_a_range_may_change() -> None:
    assert same_kind(Float(0, 1), Float(0.5, 2))
    assert not same_kind(Float(0.1, 1), Float(0.1, 1, log=True))
    assert not same_kind(Choice((1, 2)), Choice((1, 3)))
    assert not same_kind(Choice((1, 2)), Int(1, 2))


def test_distributions_are_optunas() -> None:
    assert distribution(Float(1, 2, log=True)) == FloatDistribution(1, 2, log=True)
    assert distribution(Choice((1, 2.5))) == CategoricalDistribution((1, 2.5))
    assert describe(Int(1, 3)) == "1..3 whole"


def test_inside_names_the_choices() -> None:
    with pytest.raises(ConfigError, match="not one of 1, 2"):
        inside("x", 3, Choice((1, 2)))
