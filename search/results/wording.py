"""How numbers and lists stand in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.results.statistics.estimates import Estimate
from search.study.search_space import format_value


def listed(words: Sequence[str]) -> str:
    """
    >>> listed(["1.0"]), listed(["1.0", "1.5", "2.0"])
    ('1.0', '1.0, 1.5 and 2.0')
    """
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def number(value: float) -> str:
    """A parameter's value; whole ones keep their point.

    >>> number(2.0), number(1.4142), number(1e-05)
    ('2.0', '1.414', '1e-05')
    """
    text = f"{value:.4g}"
    return text if "." in text or "e" in text else f"{text}.0"


def setting(value: object) -> str:
    """A setting of a config: none and false as a config says them.

    >>> setting(None), setting(False), setting(0.0008)
    ('none', 'false', '0.0008')
    """
    plain = value is None or isinstance(value, bool)
    return str(value).lower() if plain else format_value(value)


def scores(values: Sequence[float]) -> str:
    """
    >>> scores([0.68187, 0.6889])
    '0.6819 and 0.6889'
    """
    return listed(["unknown" if math.isnan(value) else f"{value:.4f}" for value in values])


def rho(estimate: Estimate) -> str:
    """
    >>> rho(Estimate(0.4, -0.1, 0.71, 19))
    'rank correlation +0.40, 95 % interval -0.10 to +0.71, 19 trials'
    """
    return (
        f"rank correlation {estimate.value:+.2f}, 95 % interval {estimate.low:+.2f} to"
        f" {estimate.high:+.2f}, {estimate.count} trials"
    )


def difference_text(estimate: Estimate) -> str:
    """
    >>> difference_text(Estimate(0.0123, 0.0021, 0.0225, 30))
    '+0.0123, 95 % interval +0.0021 to +0.0225'
    """
    return f"{estimate.value:+.4f}, 95 % interval {estimate.low:+.4f} to {estimate.high:+.4f}"


def some(names: Sequence[str], most: int = 8) -> str:
    """
    >>> some(["trial 1", "trial 2", "trial 3"], most=2)
    'trial 1, trial 2 and 1 more'
    """
    if len(names) <= most:
        return listed(names)
    return listed([*names[:most], f"{len(names) - most} more"])
