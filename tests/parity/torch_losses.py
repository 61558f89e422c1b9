"""The training loss in PyTorch, by plain loops where that is clearer: for parity tests and benchmarks."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def training_loss(
    logits: Tensor,
    triplet_features: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.1,
    triplet_margin: float | None = 0.3,
) -> Tensor:
    """Mean smoothed cross-entropy over the heads plus mean batch-hard triplet loss over the vectors.

    Args:
        logits: `(I, B, C)`.
        triplet_features: `(T, B, W)`; T may be 0.
        labels: `(B,)` int64.
        label_smoothing: the share of the target spread over all classes.
        triplet_margin: None for the soft margin.
    """
    identity = torch.stack(
        [functional.cross_entropy(scores, labels, label_smoothing=label_smoothing) for scores in logits]
    ).mean()
    if len(triplet_features) == 0:
        return identity
    triplets = [batch_hard_triplet(vectors, labels, triplet_margin) for vectors in triplet_features]
    return identity + torch.stack(triplets).mean()


def batch_hard_triplet(vectors: Tensor, labels: Tensor, margin: float | None) -> Tensor:
    """Batch-hard triplet loss with Euclidean distance (Hermans et al., 2017, equation 5), of `(B, W)` vectors.

    The mean over the anchors with a positive and a negative; zero where none has.
    """
    distances = torch.linalg.vector_norm(vectors[:, None] - vectors[None, :], dim=2)
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    counted = positive.any(1) & (~same).any(1)
    farthest = distances.masked_fill(~positive, -torch.inf).amax(1)[counted]
    nearest = distances.masked_fill(same, torch.inf).amin(1)[counted]
    if not len(farthest):
        return vectors.sum() * 0
    gap = farthest - nearest
    losses = functional.softplus(gap) if margin is None else torch.relu(gap + margin)
    return losses.mean()


def weighted_triplet(vectors: Tensor, labels: Tensor) -> Tensor:
    """Weighted regularisation triplet loss (Ye et al., TPAMI 2021) of `(B, W)` vectors, anchor by anchor."""

    def of_anchor(anchor: int, positive: Tensor, negative: Tensor) -> Tensor:
        far = torch.linalg.vector_norm(vectors[positive] - vectors[anchor], dim=1)
        near = torch.linalg.vector_norm(vectors[negative] - vectors[anchor], dim=1)
        return functional.softplus(far @ torch.softmax(far, 0) - near @ torch.softmax(-near, 0))

    return _mean_over_anchors(of_anchor, vectors, labels)


def circle_loss(vectors: Tensor, labels: Tensor, margin: float, scale: float) -> Tensor:
    """Circle loss (Sun et al., CVPR 2020, equation 4) of `(B, W)` vectors of any length, anchor by anchor."""

    def of_anchor(anchor: int, positive: Tensor, negative: Tensor) -> Tensor:
        alike = functional.cosine_similarity(vectors[positive], vectors[anchor], dim=1)
        unlike = functional.cosine_similarity(vectors[negative], vectors[anchor], dim=1)
        pull = (1 + margin - alike).clamp(min=0).detach() * (alike - (1 - margin))
        push = (unlike + margin).clamp(min=0).detach() * (unlike - margin)
        # All sums of a negative's term and a positive's, and the 1 of log(1 + ...).
        pairs = (scale * (push[:, None] - pull[None, :])).flatten()
        return torch.logsumexp(torch.cat([pairs, pairs.new_zeros(1)]), 0)

    return _mean_over_anchors(of_anchor, vectors, labels)


def _mean_over_anchors(
    of_anchor: Callable[[int, Tensor, Tensor], Tensor], vectors: Tensor, labels: Tensor
) -> Tensor:
    """The mean over the anchors with a positive and a negative; zero where none has."""
    places = torch.arange(len(labels))
    terms = []
    for anchor in range(len(labels)):
        positive = (labels == labels[anchor]) & (places != anchor)
        negative = labels != labels[anchor]
        if positive.any() and negative.any():
            terms.append(of_anchor(anchor, positive, negative))
    return torch.stack(terms).mean() if terms else vectors.sum() * 0
