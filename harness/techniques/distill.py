"""Distillation: what the student's outputs are pulled towards.

z  student logits (B, C);  t  teacher logits (B, C);  y  labels (B,), int64
weight       0-d tensor in [0, 1]: share of the teacher's term; 0 is off, 1 leaves the labels out
temperature  0-d tensor > 0: softens both distributions
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def none(student: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Tensor:
    """Cross-entropy with the labels alone, mean over the batch, 0-d."""
    return F.cross_entropy(student, labels)


def logits(student: Tensor, labels: Tensor, teacher: Tensor, *, weight: Tensor, temperature: Tensor) -> Tensor:
    """Soft targets: labels and the teacher's softened distribution, mixed.

        loss = (1 - weight) * CE(z, y) + weight * T**2 * KL(softmax(t / T) || softmax(z / T))

    The factor T**2 keeps the soft gradient's size as T changes. KL is 0 where z equals t up to a
    shift per row, and invariant to such shifts. Mean over the batch, 0-d.
    Source: Hinton, Vinyals, Dean 2015 (arXiv:1503.02531), section 2; KL instead of cross-entropy
    (equal gradients: the difference is the teacher's entropy).
    """
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean()
    return (1 - weight) * F.cross_entropy(student, labels) + weight * temperature.square() * divergence
