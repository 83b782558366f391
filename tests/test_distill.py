"""Distillation: zero at equality, shift invariance, closed forms, finiteness, gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.techniques import DISTILLS, distill

SETTINGS = settings(max_examples=50, deadline=None)


def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(6, 4, generator=g, dtype=torch.float64)  # noqa: E731
    return draw(), draw(), torch.randint(0, 4, (6,), generator=g)


def t(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def soft(student: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
    return distill.logits({"logits": student}, labels, {"logits": teacher}, {}, **given)


@SETTINGS
@given(st.integers(0, 1000), st.floats(0.5, 20), st.floats(-50, 50))
def test_divergence_is_zero_at_the_teacher_and_ignores_shifts(seed, temperature, shift):
    student, teacher, labels = pair(seed)
    same = soft(teacher + shift, labels, teacher, weight=t(1), temperature=t(temperature))
    assert abs(same.item()) < 1e-9
    a = soft(student, labels, teacher, weight=t(1), temperature=t(temperature))
    b = soft(student + shift, labels, teacher - shift, weight=t(1), temperature=t(temperature))
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    assert a >= 0


def test_weight_zero_is_cross_entropy_and_mixes_linearly():
    student, teacher, labels = pair(7)
    ends = [soft(student, labels, teacher, weight=t(w), temperature=t(3)) for w in (0, 1)]
    torch.testing.assert_close(ends[0], F.cross_entropy(student, labels))
    torch.testing.assert_close(ends[0], distill.none({"logits": student}, labels, {}, {}))
    middle = soft(student, labels, teacher, weight=t(0.25), temperature=t(3))
    torch.testing.assert_close(middle, 0.75 * ends[0] + 0.25 * ends[1])


def test_closed_form_of_two_classes():
    """Teacher (1/2, 1/2), student (p, 1-p): KL = -log(2) - (log p + log(1-p)) / 2, times T**2."""
    p = 0.8
    logit = 2.0 * math.log(p / (1 - p))  # divided by T = 2 gives the logit of p
    student = torch.tensor([[logit, 0.0]], dtype=torch.float64)
    got = soft(student, torch.tensor([0]), torch.zeros(1, 2, dtype=torch.float64), weight=t(1), temperature=t(2))
    want = 4 * (-math.log(2) - 0.5 * (math.log(p) + math.log(1 - p)))
    torch.testing.assert_close(got, t(want))


def test_finite_at_large_logits():
    _, teacher, labels = pair(1)
    huge = 1e4 * torch.ones(6, 4, dtype=torch.float64)
    huge[:, 0] = -1e4
    for student, other in ((huge, teacher), (teacher, huge)):
        value = soft(student, labels, other, weight=t(0.5), temperature=t(1))
        assert torch.isfinite(value)


def test_gradient_tends_to_the_logit_difference_at_high_temperature():
    """Hinton 2015, section 2.1: with T large and zero-mean logits, dL/dz = (z - t) / C (times 1/B)."""
    student, teacher, labels = pair(2)
    student = (student - student.mean(1, keepdim=True)).requires_grad_()
    teacher = teacher - teacher.mean(1, keepdim=True)
    loss = soft(student, labels, teacher, weight=t(1), temperature=t(1e4))
    [gradient] = torch.autograd.grad(loss, [student])
    torch.testing.assert_close(gradient, (student.detach() - teacher) / 4 / 6, rtol=1e-3, atol=1e-6)


def test_gradient_against_finite_differences():
    student, teacher, labels = pair(3)
    assert torch.autograd.gradcheck(
        lambda z: soft(z, labels, teacher, weight=t(0.4), temperature=t(2.5)), [student.requires_grad_()]
    )


def test_labels_are_the_teachers_arg_max():
    student, teacher, labels = pair(4)
    got = distill.labels({"logits": student}, labels, {"logits": teacher}, {}, weight=t(0.3))
    want = 0.7 * F.cross_entropy(student, labels) + 0.3 * F.cross_entropy(student, teacher.argmax(1))
    torch.testing.assert_close(got, want)


def decoupled(student, labels, teacher, **given):
    return distill.dkd({"logits": student}, labels, {"logits": teacher}, {}, **given)


@SETTINGS
@given(st.integers(0, 1000), st.floats(0.5, 10))
def test_dkd_with_the_papers_weights_is_classical_distillation(seed, temperature):
    """Zhao et al. 2022, equation 5: KD = TCKD + (1 - p_target of the teacher) * NCKD, for each sample."""
    student, teacher, labels = pair(seed)
    for i in range(len(labels)):
        one = (student[i : i + 1], labels[i : i + 1], teacher[i : i + 1])
        target = torch.softmax(one[2] / temperature, 1)[0, labels[i]]
        got = decoupled(*one, weight=t(1), temperature=t(temperature), alpha=t(1), beta=1 - target)
        torch.testing.assert_close(got, soft(*one, weight=t(1), temperature=t(temperature)), rtol=1e-7, atol=1e-9)


def test_dkd_is_finite_and_smooth():
    student, teacher, labels = pair(5)
    given = {"weight": t(0.6), "temperature": t(2), "alpha": t(1), "beta": t(8)}
    assert torch.autograd.gradcheck(lambda z: decoupled(z, labels, teacher, **given), [student.requires_grad_()])
    huge = torch.full((6, 4), -1e4, dtype=torch.float64)
    huge[:, 0] = 1e4
    assert torch.isfinite(decoupled(huge, labels, teacher, **given))
    assert torch.isfinite(decoupled(teacher, labels, huge, **given))


def test_a_hint_is_half_the_squared_distance_after_the_projection():
    """Romero et al. 2015, equation 3: 1/2 ||r(v) - u||**2 of a sample, so a sum over the features."""
    student, _, labels = pair(6)
    e, projection = torch.randn(6, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    seen, learned = {"logits": student, "embedding": e}, {"projection": projection}
    met = distill.hint(seen, labels, {"embedding": e @ projection.T}, learned, weight=t(1))
    assert met.item() == 0
    guide = torch.randn(6, 5, dtype=torch.float64)
    got = distill.hint(seen, labels, {"embedding": guide}, learned, weight=t(1))
    want = [0.5 * torch.linalg.vector_norm(projection @ e[i] - guide[i]) ** 2 for i in range(6)]
    torch.testing.assert_close(got, torch.stack(want).mean())


def authors_attention(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``at_loss`` of Zagoruyko and Komodakis: mean over samples and places, maps (B, C, H, W)."""

    def at(maps):
        return F.normalize(maps.pow(2).mean(1).view(maps.size(0), -1))

    return (at(x) - at(y)).pow(2).mean()


def test_attention_with_its_default_is_the_authors_loss():
    """Cross-entropy + beta / 2 * at_loss at beta = 1000; weight 1/2."""
    student, _, labels = pair(6)
    g = torch.Generator().manual_seed(1)
    ours, theirs = (torch.randn(6, c, 12, 11, generator=g, dtype=torch.float64) for c in (3, 5))
    default = DISTILLS["attention"].params["beta"].default
    seen, teacher = {"logits": student, "map": ours}, {"map": theirs.square().sum(1)}
    got = distill.attention(seen, labels, teacher, {}, weight=t(0.5), beta=t(default))
    want = F.cross_entropy(student, labels) + 1000 / 2 * authors_attention(ours, theirs)
    torch.testing.assert_close(got, want)


def test_attention_ignores_scale_and_channels_and_is_two_sided():
    """One-hot maps at different places: 1 + 1 a sample, over the 128 places that so small a map counts as,
    times beta / 2."""
    student, _, labels = pair(6)
    maps = torch.zeros(6, 3, 2, 2, dtype=torch.float64)
    maps[:, 1, 0, 0] = 7.0
    same, other = torch.zeros(6, 2, 2, dtype=torch.float64), torch.zeros(6, 2, 2, dtype=torch.float64)
    same[:, 0, 0], other[:, 1, 1] = 0.5, 3.0
    seen = {"logits": student, "map": maps}
    near = distill.attention(seen, labels, {"map": same}, {}, weight=t(1), beta=t(10))
    far = distill.attention(seen, labels, {"map": other}, {}, weight=t(1), beta=t(10))
    assert near.item() == 0
    assert far.item() == pytest.approx(10 / 2 * 2 / 128)
    small = distill.attention(seen, labels, {"map": same.repeat(1, 2, 2)}, {}, weight=t(1), beta=t(10))
    assert torch.isfinite(small), "maps of different sizes are brought to one"


def test_the_gradient_of_attention_is_finite_where_a_map_is_dead():
    student, _, labels = pair(6)
    maps = torch.zeros(6, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    seen = {"logits": student, "map": maps}
    loss = distill.attention(
        seen, labels, {"map": torch.ones(6, 2, 2, dtype=torch.float64)}, {}, weight=t(1), beta=t(9)
    )
    assert torch.autograd.grad(loss, maps)[0].isfinite().all()


def test_jacobian_compares_directions():
    student, _, labels = pair(8)
    g = torch.randn(6, 1, 3, 3, dtype=torch.float64)
    seen = {"logits": student, "input_gradient": g}
    for factor, want in ((5.0, 0.0), (-0.1, 4.0)):  # |g - (-g)|**2 = 4 for unit vectors
        got = distill.jacobian(seen, labels, {"input_gradient": factor * g}, {}, weight=t(1), beta=t(1))
        assert got.item() == pytest.approx(want, abs=1e-12)


def test_parameter_is_the_sum_of_absolute_differences():
    """The default strength is 0.01; at weight 1/2 the whole is cross-entropy + 0.01 * sum|difference|."""
    student, _, labels = pair(9)
    ours = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}
    theirs = {"a": torch.tensor([1.5, 2.0]), "b": torch.tensor([[1.0]])}
    strength = t(DISTILLS["parameter"].params["strength"].default)
    got = distill.parameter({"logits": student, **ours}, labels, theirs, {}, weight=t(0.5), strength=strength)
    torch.testing.assert_close(got, F.cross_entropy(student, labels) + 0.01 * 2.5)


def authors_dkd(student, teacher, target, alpha, beta, temperature):
    """``dkd_loss`` of Zhao et al. 2022, equations 7 and 8, in plain probabilities."""
    own = F.one_hot(target, student.shape[1]).bool()
    p_s, p_t = (F.softmax(z / temperature, 1) for z in (student, teacher))
    pairs = [torch.stack([(p * own).sum(1), (p * ~own).sum(1)], 1) for p in (p_s, p_t)]
    tckd = F.kl_div(pairs[0].log(), pairs[1], reduction="sum") * temperature**2 / len(target)
    rest = [z[~own].view(len(target), -1) / temperature for z in (student, teacher)]
    nckd = F.kl_div(rest[0].log_softmax(1), rest[1].softmax(1), reduction="sum") * temperature**2 / len(target)
    return alpha * tckd + beta * nckd


def test_dkd_with_its_defaults_is_the_authors_loss():
    """alpha 1, beta 8, T 4; at weight 1/2 cross-entropy + that."""
    student, teacher, labels = pair(12)
    given = {n: t(p.default) for n, p in DISTILLS["dkd"].params.items() if n != "weight"}
    got = decoupled(student, labels, teacher, weight=t(0.5), **given)
    want = F.cross_entropy(student, labels) + authors_dkd(student, teacher, labels, 1, 8, 4)
    torch.testing.assert_close(got, want)


ADDED = {
    "hint": {},
    "attention": {"beta": t(1000)},
    "jacobian": {"beta": t(1)},
    "parameter": {"strength": t(0.01)},
    "dkd": {"temperature": t(4), "alpha": t(1), "beta": t(8)},
}


@pytest.mark.parametrize("kind", ADDED)
def test_a_term_that_papers_add_leaves_the_labels_their_weight(kind):
    """The labels' loss counts once up to weight 1/2, and the term once from there on."""
    g = torch.Generator().manual_seed(4)
    z, other, labels = pair(7)
    student = {"logits": z, "embedding": torch.randn(6, 3, generator=g, dtype=torch.float64)}
    student |= {"map": torch.randn(6, 2, 3, 3, generator=g, dtype=torch.float64), "a": torch.ones(2)}
    student |= {"input_gradient": torch.randn(6, 4, generator=g, dtype=torch.float64)}
    teacher = {"logits": other, "embedding": torch.randn(6, 5, generator=g, dtype=torch.float64), "a": torch.zeros(2)}
    teacher |= {"map": torch.rand(6, 3, 3, generator=g, dtype=torch.float64)}
    teacher |= {"input_gradient": torch.randn(6, 4, generator=g, dtype=torch.float64)}
    learned = {"projection": torch.randn(5, 3, generator=g, dtype=torch.float64)}
    names = {"parameter": ("logits", "a")}.get(kind, tuple(teacher))
    mine, theirs = {n: student[n] for n in student if n in (*names, "logits")}, {n: teacher[n] for n in names}
    values = {
        w: getattr(distill, kind)(mine, labels, theirs, learned, weight=t(w), **ADDED[kind]).item()
        for w in (0.0, 0.2, 0.5, 0.8, 1.0)
    }
    own, term = F.cross_entropy(z, labels).item(), values[1.0]
    want = {0.0: own, 0.2: own + term / 4, 0.5: own + term, 0.8: own / 4 + term, 1.0: term}
    assert values == pytest.approx(want) and term > 0
