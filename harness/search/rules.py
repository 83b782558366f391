"""Choose a search's stopping rule."""

from __future__ import annotations

from harness.search.dominated import Dominated, DominatedConfig
from harness.search.moasha import Moasha
from harness.search.rungs import Never, Rule
from harness.search.state import PRICED, TIMED
from harness.space.space import Space

LATENCY_TIE = 0.02  # how well a latency repeats (results/benchmarks/repeatability.json: 0.8 %), with room


def rule_of(space: Space) -> Rule:
    """The rule of ``search.stop``.

    Rules compare accuracy with costs that are known before training. With other objectives nothing is stopped.
    """
    names = {o.name for o in space.objectives}
    if "accuracy" not in names or not names <= {"accuracy", *PRICED}:
        return Never()
    ties = tuple(LATENCY_TIE if o.name in TIMED else 0.0 for o in space.objectives if o.name != "accuracy")
    return make_rule(space.settings.stop, ties)


def make_rule(name: str, ties: tuple[float, ...] = ()) -> Rule:
    """Make the stopping rule ``name``, a value of ``search.stop``. ``ties``: see :class:`DominatedConfig`."""
    return Dominated(DominatedConfig(ties)) if name == "dominated" else Moasha() if name == "moasha" else Never()
