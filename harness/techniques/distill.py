"""Distillation: losses that train the student towards its teacher.

student  quantities of the student in this step, by name; always ``logits`` z (B, C)
labels   y (B,), int64
teacher  quantities of the teacher for the same samples ({} where a method needs none)
learned  tensors that the method trains beside the network ({} for most)
weight   0-d tensor w in [0, 1]: 0 is off, 1 ignores the labels

Every method returns the loss, mean over the batch, 0-d. ``logits``, ``labels`` and ``copy`` average two targets, as
their papers do: (1 - w) * CE + w * term. The other papers add their term to the labels' loss. For them
(:func:`_added`):

    loss = ((1 - w) * CE + w * term) / max(w, 1 - w)

At w = 1/2 this is CE + term, the paper's loss. An average would be half of it, with the effect of half the learning
rate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]

PLACES = 128  # lower bound on n in `attention`, set by hand: without it the term of a small map outweighs the labels


def none(student: Tensors, labels: Tensor, teacher: Tensors, learned: Tensors) -> Tensor:
    """Cross-entropy with the labels alone."""
    return F.cross_entropy(student["logits"], labels)


def logits(
    student: Tensors, labels: Tensor, teacher: Tensors, learned: Tensors, *, weight: Tensor, temperature: Tensor
) -> Tensor:
    """Soft targets: an average of the labels' loss and the divergence from the teacher's softened distribution.

        loss = (1 - weight) * CE(z, y) + weight * T**2 * KL(softmax(t / T) || softmax(z / T))

    t            the teacher's logits (B, C);  temperature  T > 0 softens both distributions
    The factor T**2 keeps the magnitude of the soft gradient as T changes. KL is 0 where z equals t up to a
    shift per row, and it is invariant to such shifts.
    Source: Hinton, Vinyals, Dean 2015 (arXiv:1503.02531), section 2; KL instead of cross-entropy
    (equal gradients: the difference is the teacher's entropy).
    """
    log_student = F.log_softmax(student["logits"] / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher["logits"] / temperature, dim=-1)
    soft = temperature.square() * _divergence(log_teacher, log_student).mean()
    return (1 - weight) * F.cross_entropy(student["logits"], labels) + weight * soft


def labels(student: Tensors, labels: Tensor, teacher: Tensors, learned: Tensors, *, weight: Tensor) -> Tensor:
    """The teacher's arg-max as a second label.

        loss = (1 - weight) * CE(z, y) + weight * CE(z, argmax t)

    Source: Hinton, Vinyals, Dean 2015 (arXiv:1503.02531), section 2, in the limit T -> 0 of the
    teacher alone; "hard-label distillation" of Touvron et al. 2021 (arXiv:2012.12877), section 4,
    equation 3, is weight = 1/2.
    """
    hard = F.cross_entropy(student["logits"], teacher["logits"].argmax(-1))
    return (1 - weight) * F.cross_entropy(student["logits"], labels) + weight * hard


def dkd(
    student: Tensors,
    labels: Tensor,
    teacher: Tensors,
    learned: Tensors,
    *,
    weight: Tensor,
    temperature: Tensor,
    alpha: Tensor,
    beta: Tensor,
) -> Tensor:
    """Decoupled distillation: separate weights for the target class and for the other classes.

        loss = CE(z, y) + T**2 * (alpha * TCKD + beta * NCKD)      at weight = 1/2
        TCKD = KL(b_t || b_z),  b = (p_y, 1 - p_y) of softmax(. / T)
        NCKD = KL(r_t || r_z),  r = softmax over the classes other than y

    alpha, beta  >= 0; the training loop raises both from 0 (``warmup``). With alpha = 1 and beta = 1 - p_y of the
    teacher (per sample) the term would be that of :func:`logits`. A constant beta gives the teacher's probabilities of
    the other classes more weight.
    Source: Zhao, Cui, Song, Qiu, Liang 2022 (arXiv:2203.08679), equations 7 and 8, with their warm-up of 20
    of 240 epochs as a share of the epochs.
    """
    of_label = F.one_hot(labels, student["logits"].shape[-1]).bool()
    parts = []
    for quantities in (teacher, student):
        soft = quantities["logits"] / temperature
        log_p = F.log_softmax(soft, dim=-1)
        floor = torch.full_like(log_p, torch.finfo(log_p.dtype).min)
        target = torch.where(of_label, log_p, torch.zeros_like(log_p)).sum(-1)
        rest = torch.logsumexp(torch.where(of_label, floor, log_p), dim=-1)
        others = F.log_softmax(torch.where(of_label, floor, soft), dim=-1)
        parts.append((torch.stack([target, rest], -1), torch.where(of_label, torch.zeros_like(log_p), others)))
    (pair_t, others_t), (pair_z, others_z) = parts
    probabilities = torch.where(of_label, torch.zeros_like(others_t), others_t.exp())
    target_term = _divergence(pair_t, pair_z).mean()
    other_term = (probabilities * (others_t - others_z)).sum(-1).mean()
    soft = temperature.square() * (alpha * target_term + beta * other_term)
    return _added(student, labels, soft, weight)


def hint(student: Tensors, labels: Tensor, teacher: Tensors, learned: Tensors, *, weight: Tensor) -> Tensor:
    """Hints: a learned projection of the student's embedding regresses the teacher's embedding.

        loss = CE(z, y) + ||P e_s - e_t||**2 / 2      mean over the batch, at weight = 1/2

    e_s, e_t  inputs of the last layer: (B, F_s), (B, F_t);  learned  ``projection`` P (F_t, F_s)
    Source: Romero et al. 2015 (arXiv:1412.6550), section 2.2, equation 3.
    Differs from the paper: the guided layer is the penultimate one, and both losses are minimized together instead of
    one after the other, because a trial has few epochs and their number is searched as one parameter.
    """
    guided = student["embedding"] @ learned["projection"].T
    regressed = (guided - teacher["embedding"]).square().sum(-1).mean() / 2
    return _added(student, labels, regressed, weight)


def attention(
    student: Tensors, labels: Tensor, teacher: Tensors, learned: Tensors, *, weight: Tensor, beta: Tensor
) -> Tensor:
    """Attention transfer: match the spatial activity of the last feature map.

        loss = CE(z, y) + beta / 2 * ||q_s - q_t||**2 / n      mean over the batch, at weight = 1/2
        q = vec(A) / ||vec(A)||_2,  A = sum over channels of F_c**2,  n = max(H * W, PLACES)

    student  ``map`` F (B, C, H, W);  teacher  ``map`` A (B, H', W'). If the sizes differ, the
    larger is averaged down to the smaller. beta > 0, 1000 as in the paper (there "10^3 divided by the
    number of elements and the batch size").
    Bound: ||q_s - q_t||**2 <= 2 (no entry is negative), so the teacher's term is at most beta / n.
    Source: Zagoruyko, Komodakis 2017 (arXiv:1612.03928), section 3.1, equation 2. The squared distance and its mean
    over samples and map elements are those of the authors' code (``at_loss``).
    Differs from the paper: n is at least PLACES. The weight of a sample's squared distance is beta / 2 / n: 7.8 to 0.5
    in the paper (maps of 64 to 1024 elements), at most 3.9 here. A 2 x 2 map would get weight 125; with that the
    accuracy of the digits convnet fell from 0.959 to 0.681 (three seeds). Only the last map is matched, instead of one
    map per group of blocks, because a student of another depth than the teacher's has no corresponding groups.
    """
    student_map, teacher_map = student["map"].square().sum(1), teacher["map"]
    size = (min(student_map.shape[-2], teacher_map.shape[-2]), min(student_map.shape[-1], teacher_map.shape[-1]))
    q = [F.normalize(F.adaptive_avg_pool2d(a.unsqueeze(1), size).flatten(1), dim=1) for a in (student_map, teacher_map)]
    distance = (q[0] - q[1]).square().sum(1).mean() / max(size[0] * size[1], PLACES)
    return _added(student, labels, beta / 2 * distance, weight)


def jacobian(
    student: Tensors, labels: Tensor, teacher: Tensors, learned: Tensors, *, weight: Tensor, beta: Tensor
) -> Tensor:
    """Match the student's and the teacher's gradient to the input; works for any two architectures.

        loss = CE(z, y) + beta * ||g_s - g_t||**2,  g = G / ||G||      at weight = 1/2
        G = gradient of a sample's CE to its input, flattened

    beta > 0. Both gradients are normalized, because those of a confident network are small. Both are computed in eval
    mode; the student's needs a second pass, with the running statistics after its step. In training mode batch norm
    mixes the samples of a batch (the cosine to a sample's own gradient falls to -0.69), and the digits convnet reached
    0.946 instead of 0.955 (three seeds).
    Source: Srinivas, Fleuret 2018 (arXiv:1803.00443), section 4, with the gradient of the loss instead of one logit;
    Czarnecki et al. 2017 (arXiv:1706.04859), section 2.
    """
    g = [F.normalize(quantities["input_gradient"].flatten(1), dim=1) for quantities in (student, teacher)]
    distance = (g[0] - g[1]).square().sum(1).mean()
    return _added(student, labels, beta * distance, weight)


def gradient(
    student: Tensors,
    labels: Tensor,
    teacher: Tensors,
    learned: Tensors,
    *,
    weight: Tensor,
    threshold: Tensor,
    added: bool,
) -> Tensor:
    """The labels' loss; the teacher's parameter gradients are combined with the student's. Needs equal shapes.

    :mod:`harness.train.step` combines the gradients with :func:`guided`.
    """
    return F.cross_entropy(student["logits"], labels)


def guided(
    student_gradient: Tensor, teacher_gradient: Tensor, *, weight: Tensor, threshold: Tensor, added: bool
) -> Tensor:
    """The student's gradient combined with the teacher's on the same batch.

        g = (1 - weight) * g_s + weight * clamp(g_t, -threshold, threshold)
        g =                g_s + weight * clamp(g_t, -threshold, threshold)      where ``added``

    student_gradient  g_s = dCE(student)/dw_s, mean over the batch
    teacher_gradient  g_t = dCE(teacher)/dw_t, mean over the same batch, of equal shape
    threshold         > 0, 5 by default; the teacher's gradient is clamped, the student's own is not
    """
    bounded = weight * torch.minimum(torch.maximum(teacher_gradient, -threshold), threshold)
    return student_gradient + bounded if added else (1 - weight) * student_gradient + bounded


def parameter(
    student: Tensors, labels: Tensor, teacher: Tensors, learned: Tensors, *, weight: Tensor, strength: Tensor
) -> Tensor:
    """An L1 penalty on the distance to the teacher's parameters, for networks of equal shapes.

        loss = CE(z, y) + strength * sum|w_s - w_t|      over all parameters, at weight = 1/2

    strength  >= 0, 0.01 by default; 0 leaves only the labels' loss
    Each step of plain SGD moves every parameter by lr * strength towards the teacher's, at any distance; it therefore
    comes no nearer than that. With momentum m the move is 1 / (1 - m) times as large. The penalty's gradient has the
    norm strength * sqrt(n) for n parameters: a smaller threshold of ``clip: norm`` scales the labels' gradient down
    too.
    Source: Li, Grandvalet, Davoine 2018 (arXiv:1802.01483), section 3 (a penalty towards a starting point instead of
    zero), with the absolute value instead of the square.
    """
    return _added(student, labels, strength * _distance(student, teacher), weight)


def copy(
    student: Tensors, labels: Tensor, teacher: Tensors, learned: Tensors, *, weight: Tensor, strength: Tensor
) -> Tensor:
    """The teacher's arg-max as a second label, and an L1 penalty on the distance to its parameters. Needs equal shapes.

        loss = (1 - weight) * CE(z, y) + weight * CE(z, argmax t) + strength * sum|w_s - w_t|

    strength  >= 0, 0.01 by default: a step of plain SGD moves every parameter by lr * strength towards the teacher's
    Source: :func:`labels`, plus the penalty of :func:`parameter`, which ``weight`` does not scale.
    """
    label_loss = F.cross_entropy(student["logits"], labels)
    teacher_loss = F.cross_entropy(student["logits"], teacher["logits"].argmax(-1))
    return (1 - weight) * label_loss + weight * teacher_loss + strength * _distance(student, teacher)


def _added(student: Tensors, labels: Tensor, term: Tensor, weight: Tensor) -> Tensor:
    """The labels' loss plus ``term``, scaled so that the larger of the factors w and 1 - w becomes 1."""
    label_loss = F.cross_entropy(student["logits"], labels)
    return ((1 - weight) * label_loss + weight * term) / torch.maximum(weight, 1 - weight)


def _distance(student: Tensors, teacher: Tensors) -> Tensor:
    """sum|w_s - w_t| over the parameters, 0-d."""
    names = [name for name in teacher if name in student and name != "logits"]
    return torch.stack([(student[name] - teacher[name]).abs().sum() for name in names]).sum()


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)
