"""Distillation: zero at equality, shift invariance, closed forms, finiteness, gradient."""

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.techniques import distill

SETTINGS = settings(max_examples=50, deadline=None)


def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(6, 4, generator=g, dtype=torch.float64)  # noqa: E731
    return draw(), draw(), torch.randint(0, 4, (6,), generator=g)


def t(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@SETTINGS
@given(st.integers(0, 1000), st.floats(0.5, 20), st.floats(-50, 50))
def test_divergence_is_zero_at_the_teacher_and_ignores_shifts(seed, temperature, shift):
    student, teacher, labels = pair(seed)
    same = distill.logits(teacher + shift, labels, teacher, weight=t(1), temperature=t(temperature))
    assert abs(same.item()) < 1e-9
    a = distill.logits(student, labels, teacher, weight=t(1), temperature=t(temperature))
    b = distill.logits(student + shift, labels, teacher - shift, weight=t(1), temperature=t(temperature))
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    assert a >= 0


def test_weight_zero_is_cross_entropy_and_mixes_linearly():
    student, teacher, labels = pair(7)
    ends = [distill.logits(student, labels, teacher, weight=t(w), temperature=t(3)) for w in (0, 1)]
    torch.testing.assert_close(ends[0], F.cross_entropy(student, labels))
    torch.testing.assert_close(ends[0], distill.none(student, labels, teacher))
    middle = distill.logits(student, labels, teacher, weight=t(0.25), temperature=t(3))
    torch.testing.assert_close(middle, 0.75 * ends[0] + 0.25 * ends[1])


def test_closed_form_of_two_classes():
    """Teacher (1/2, 1/2), student (p, 1-p): KL = -log(2) - (log p + log(1-p)) / 2, times T**2."""
    p = 0.8
    logit = 2.0 * math.log(p / (1 - p))  # divided by T = 2 gives the logit of p
    student = torch.tensor([[logit, 0.0]], dtype=torch.float64)
    got = distill.logits(
        student, torch.tensor([0]), torch.zeros(1, 2, dtype=torch.float64), weight=t(1), temperature=t(2)
    )
    want = 4 * (-math.log(2) - 0.5 * (math.log(p) + math.log(1 - p)))
    torch.testing.assert_close(got, t(want))


def test_finite_at_large_logits():
    _, teacher, labels = pair(1)
    huge = 1e4 * torch.ones(6, 4, dtype=torch.float64)
    huge[:, 0] = -1e4
    for student, other in ((huge, teacher), (teacher, huge)):
        value = distill.logits(student, labels, other, weight=t(0.5), temperature=t(1))
        assert torch.isfinite(value)


def test_gradient_tends_to_the_logit_difference_at_high_temperature():
    """Hinton 2015, section 2.1: with T large and zero-mean logits, dL/dz = (z - t) / C (times 1/B)."""
    student, teacher, labels = pair(2)
    student = (student - student.mean(1, keepdim=True)).requires_grad_()
    teacher = teacher - teacher.mean(1, keepdim=True)
    loss = distill.logits(student, labels, teacher, weight=t(1), temperature=t(1e4))
    [gradient] = torch.autograd.grad(loss, [student])
    torch.testing.assert_close(gradient, (student.detach() - teacher) / 4 / 6, rtol=1e-3, atol=1e-6)


def test_gradient_against_finite_differences():
    student, teacher, labels = pair(3)
    assert torch.autograd.gradcheck(
        lambda z: distill.logits(z, labels, teacher, weight=t(0.4), temperature=t(2.5)), [student.requires_grad_()]
    )
