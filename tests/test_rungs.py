"""Stopping rules alone: what they may stop, that the bound holds, and the published orders."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.search.dominated import PAUSED, Dominated, DominatedConfig
from harness.search.forecast import CURVES, Forecast, ForecastConfig
from harness.search.moasha import Moasha, epsilon_net, ranked
from harness.search.rules import make_rule
from harness.search.rungs import NEVER_STOPPED, Curve, never_stopped
from harness.stats.pareto import nondominated


def curves(rng: np.random.Generator, n: int) -> list[tuple[float, float]]:
    """(accuracy at the rung, final): logits that rise by a noisy gap."""
    z = rng.normal(1.0, 1.0, n)
    after = 0.7 * z + 1.2 + rng.normal(0, 0.4, n)
    return [(1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))) for a, b in zip(z, after, strict=True)]


def learned(rule: Dominated, pairs: list[tuple[float, float]], costs: tuple[float, ...] = (1.0,)) -> Dominated:
    for number, (at_rung, final) in enumerate(pairs):
        rule.learn(number, Curve(costs, rungs={0: at_rung}), final, True)
    return rule


def bound(rule: Dominated, accuracy: float, rung: int = 0) -> float:
    return hoped(rule, Curve((1.0,), rungs={rung: accuracy}), rung)


def hoped(rule: Dominated, curve: Curve, rung: int) -> float:
    return float(rule.forecast.bound([curve], rung, rule.config.confidence)[0])


def with_least(least: int) -> Dominated:
    return Dominated(forecast=Forecast(ForecastConfig(least=least)))


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95])
def test_final_accuracies_exceed_the_bound_as_seldom_as_stated(confidence):
    rng = np.random.default_rng(0)
    above = []
    for _ in range(40):
        rule = learned(Dominated(DominatedConfig(confidence=confidence)), curves(rng, 60))
        above += [final > bound(rule, at_rung) for at_rung, final in curves(rng, 50)]
    share = np.mean(above)
    assert 0.3 * (1 - confidence) < share < 1.3 * (1 - confidence) + 0.01


def test_trials_that_only_an_exemption_kept_count_for_those_that_were_stopped():
    def with_one_more(exempt: float, flagged: bool) -> float:
        rule = learned(Dominated(DominatedConfig(confidence=0.96)), [(0.5, 0.6)] * 60)
        rule.learn(60, Curve((1.0,), exempt, rungs={0: 0.5}, flagged=flagged), 0.9, True)
        return bound(rule, 0.5)

    assert with_one_more(NEVER_STOPPED, flagged=True) > 0.75, "it stands for ten"
    assert with_one_more(NEVER_STOPPED, flagged=False) < 0.65, "one in sixty is no reason to hope"
    assert with_one_more(1.0, flagged=True) < 0.65, "every one of its kind finishes"


def test_parameters_tell_a_slow_start_from_a_weak_student():
    rng = np.random.default_rng(0)
    rule = Dominated()
    for number in range(80):
        slow = rng.random()
        final = 1 / (1 + math.exp(-(4 * slow + rng.normal(0, 0.2))))
        rule.learn(number, Curve((1.0,), places=(slow, 0.5), rungs={1: 0.5}), final, True)
    slow, weak = (hoped(rule, Curve((1.0,), places=(u, 0.5), rungs={1: 0.5}), 1) for u in (0.9, 0.1))
    assert slow > 0.95 and weak < 0.8


def test_the_best_of_the_last_rungs_counts_and_no_earlier_one():
    rule = Dominated(forecast=Forecast(ForecastConfig(window=2)))
    for number in range(40):
        at = 0.3 + 0.01 * number
        rule.learn(number, Curve((1.0,), rungs={0: 0.2, 1: at, 2: at}), at + 0.1, True)

    def after(*accuracies: float) -> float:
        return hoped(rule, Curve((1.0,), rungs=dict(enumerate(accuracies))), 2)

    assert after(0.2, 0.6, 0.3) == after(0.9, 0.6, 0.5), "the best of the last two"
    assert after(0.2, 0.6, 0.3) == pytest.approx(0.7, abs=0.03)


def test_only_the_last_curves_are_learned_from():
    rng = np.random.default_rng(1)
    early, late = ([(float(a), float(b)) for a, b in rng.uniform(low, low + 0.1, (CURVES, 2))] for low in (0.2, 0.7))
    moved, fresh = learned(learned(Dominated(), early), late), learned(Dominated(), late)
    for number, pair in enumerate(early):  # asked all the way, so that every cache was filled
        moved.learn(number, Curve((1.0,), rungs={0: pair[0]}), pair[1], True)
        bound(moved, 0.75)
    for number, pair in enumerate(late):
        moved.learn(number, Curve((1.0,), rungs={0: pair[0]}), pair[1], True)
        bound(moved, 0.75)
    assert bound(moved, 0.75) == pytest.approx(bound(fresh, 0.75), abs=0.02)


def test_what_the_space_cannot_express_is_not_learned_from():
    rule = learned(with_least(1), [(0.5, 0.6)] * 10)
    before = bound(rule, 0.5)
    rule.learn(10, Curve((1.0,), 1.0, places=None, rungs={0: 0.5}), 0.99, True)
    rule.learn(11, Curve((1.0,), rungs={0: 0.5}), math.nan, True)
    assert bound(rule, 0.5) == before and rule.front is not None and rule.front.numbers[-1] == 10
    assert hoped(rule, Curve((1.0,), places=None, rungs={0: 0.1}), 0) == math.inf


def test_what_may_still_be_on_the_front_goes_on():
    def rule(feasible: bool = True) -> Dominated:
        made = learned(Dominated(), [(0.5, 0.6)] * 10)
        made.learn(11, Curve((1.5,)), 0.95, feasible)
        return made

    def said(curve: Curve, accuracy: float = 0.5, feasible: bool = True) -> str:
        made = rule(feasible)
        made.begin(100, curve)
        return made.decide(100, 0, accuracy)

    assert "trial 11" in said(Curve((2.0,)))
    assert said(Curve((0.5,))) == "", "nothing that costs as little is as good"
    assert said(Curve(None)) == "", "its costs are not known"
    exempt = Curve((2.0,), exempt=NEVER_STOPPED)
    assert said(exempt) == "" and exempt.flagged, "it only would have stopped"
    assert said(Curve((2.0,)), 0.97) == "", "it may become better"
    assert said(Curve((2.0,)), feasible=False) == "", "what breaks a constraint dominates nobody"


def test_nothing_is_extrapolated_from_a_few_curves():
    assert bound(learned(with_least(8), [(0.5, 0.6)] * 7), 0.5) == math.inf
    assert bound(learned(with_least(8), [(0.5, 0.6)] * 8), 0.5) < 1
    assert bound(learned(with_least(8), [(0.5, 0.6)] * 8), 0.5, 1) == math.inf


def test_a_tenth_is_never_stopped():
    share = np.mean([never_stopped(3, n) for n in range(5000)])
    assert share == pytest.approx(NEVER_STOPPED, abs=0.015)
    assert [never_stopped(3, n) for n in range(50)] == [never_stopped(3, n) for n in range(50)]


@pytest.mark.parametrize(
    ("rule", "total", "rungs"),
    [
        ("moasha", 27, {1: 3, 3: 2, 9: 1}),
        ("moasha", 20, {3: 2, 7: 1}),
        ("none", 9, {}),
        ("dominated", 1, {}),
        ("dominated", 2, {1: 10}),
        ("dominated", 5, {1: 4, 2: 8}),
        ("dominated", 40, {2 * i: i for i in range(1, 11)}),
    ],
)
def test_rungs_are_shares_of_a_trial(rule, total, rungs):
    found = make_rule(rule).rungs(total)
    assert found == rungs and list(found) == sorted(found)


@given(st.integers(1, 400))
def test_every_rung_is_an_epoch_before_the_last(total):
    for rule in (Dominated(), Moasha()):
        found = rule.rungs(total)
        assert list(found) == sorted(found) and all(0 < e < total for e in found)
        assert len(set(found.values())) == len(found), "no two epochs are one rung"


def test_moasha_with_accuracy_alone_is_successive_halving():
    rule, kept = Moasha(eta=3), []
    for number, accuracy in enumerate([0.3, 0.9, 0.5, 0.8, 0.95, 0.1, 0.92, 0.2, 0.97]):
        rule.begin(number, Curve(None))
        if not rule.decide(number, 0, accuracy):
            kept.append(number)
    best = [0, 1, 4, 6, 8]  # asynchronous: each among the best third of those before it, at least one
    assert kept == best


def test_an_epsilon_net_takes_the_farthest_next():
    points = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [0.9, 0.1], [0.25, 0.75]])
    assert epsilon_net(points, 5) == [0, 1, 2, 4, 3]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_layers_come_one_after_the_other(points):
    losses = np.array(points, float)
    order = ranked(losses, len(losses))
    assert sorted(order) == list(range(len(losses)))
    first = np.flatnonzero(nondominated(losses, ["minimize"] * 2))
    assert set(order[: len(first)]) == set(first.tolist())
    assert all(ranked(losses, n) == order[:n] for n in range(1, len(losses)))


def test_a_latency_within_the_noise_is_no_reason_to_go_on():
    for ties, stops in (((0.0, 0.02), True), ((), False)):
        rule = learned(Dominated(DominatedConfig(ties)), [(0.5, 0.6)] * 10, (100.0, 2.0))
        rule.learn(20, Curve((100.0, 1.01)), 0.95, True)
        rule.begin(21, Curve((100.0, 1.0)))
        assert bool(rule.decide(21, 0, 0.5)) is stops


def test_a_resumed_moasha_ranks_against_those_before():
    fresh, resumed = Moasha(), Moasha()
    for number, accuracy in enumerate([0.9, 0.8, 0.7, 0.6, 0.5]):
        fresh.begin(number, Curve((1.0,)))
        fresh.decide(number, 0, accuracy)
        resumed.learn(number, Curve((1.0,), rungs={0: accuracy}), None, False)
    for rule in (fresh, resumed):
        rule.begin(9, Curve((1.0,)))
    assert fresh.decide(9, 0, 0.55) == resumed.decide(9, 0, 0.55) != ""


def stopped_in_a_poor_light() -> Dominated:
    """Trial 50 was stopped when no curve had risen from where it stood."""
    rule = learned(Dominated(), [(0.5, 0.6)] * 10, (2.0,))
    rule.learn(40, Curve((1.0,)), 0.8, True)
    for number, at in ((50, 0.5), (51, 0.45)):
        curve = Curve((2.0,))
        rule.begin(number, curve)
        assert "trial 40" in rule.decide(number, 0, at)
        rule.learn(number, Curve((2.0,)), None, False)
    return rule


def test_what_was_stopped_is_due_once_its_like_has_risen():
    rule = stopped_in_a_poor_light()
    assert rule.due() == []
    for number in range(60, 90):
        rule.learn(number, Curve((3.0,), rungs={0: 0.5}), 0.9, True)
    assert rule.due()[0] == 50, "the most promising first"
    rule.learn(90, Curve((1.0,)), 0.99, True)
    assert rule.due() == [], "the front has left it behind"


def test_a_second_chance_goes_on_with_its_curve():
    rule = stopped_in_a_poor_light()
    curve = rule.resume(50)
    assert curve is not None and curve.resumed and curve.rungs == {0: 0.5} and not curve.flagged and not curve.exempt
    assert rule.resume(50) is None and 50 not in rule.due()


def test_a_second_chance_is_judged_at_the_higher_confidence():
    """Three curves of a hundred rose to 0.9: more than 1.3 % of them, fewer than 15 %."""
    rule = learned(Dominated(), [(0.5, 0.9 if number % 33 == 1 else 0.6) for number in range(100)], (2.0,))
    rule.learn(100, Curve((1.0,)), 0.8, True)
    for number, again in ((101, False), (102, True)):
        rule.begin(number, Curve((2.0,), resumed=again))
        assert (rule.decide(number, 0, 0.5) == "") is again


def test_only_what_can_be_foretold_is_kept_and_not_without_end():
    rule = Dominated()
    rule.learn(0, Curve((1.0,)), None, False)  # a constraint ended it before it trained
    rule.learn(1, Curve(None, rungs={0: 0.5}), None, False)
    rule.learn(2, Curve((1.0,), places=None, rungs={0: 0.5}), None, False)
    assert not rule.paused
    for number in range(PAUSED + 5):
        rule.learn(number, Curve((1.0,), rungs={0: 0.5}), None, False)
    assert len(rule.paused) == PAUSED and 4 not in rule.paused and 5 in rule.paused
