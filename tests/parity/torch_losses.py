"""The training loss in PyTorch, by plain loops where that is clearer: for parity tests and benchmarks."""

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
