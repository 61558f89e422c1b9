"""Which images make up the batch of a step: identity-balanced (P x K) sampling as pure index arithmetic.

The batch of a step is a function of (seed, step) alone. Resuming at any step, on any number of hosts, therefore needs
no saved iterator: every host computes the whole batch's indices and decodes its own share.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

# Streams of random numbers, kept apart by their first word.
_IDENTITY_ORDER, _IMAGE_ORDER = 0, 1


@dataclasses.dataclass(frozen=True)
class IdentityIndex:
    """The images of a training split by identity.

    Attributes:
        labels: `(N,)` int32: each image's identity as a class, `0 .. num_identities - 1`, in ascending order of id.
        images: for each class, the indices of its images, ascending.
    """

    labels: np.ndarray
    images: Sequence[np.ndarray]

    @property
    def num_identities(self) -> int:
        """How many classes there are."""
        return len(self.images)


def index_identities(ids: np.ndarray) -> IdentityIndex:
    """Groups images by identity.

    Args:
        ids: `(N,)` integers of any value, one for each image.
    """
    unique, labels = np.unique(ids, return_inverse=True)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(len(unique)))
    return IdentityIndex(labels.astype(np.int32), np.split(order, starts[1:]))


def batch_indices(
    index: IdentityIndex, *, seed: int, step: int, identities_per_batch: int, images_per_identity: int
) -> np.ndarray:
    """The images of one step's batch: P different identities, K images of each.

    The identities are gone through in passes, each in a random order of its own; a pass's remainder of fewer than P
    is left out, so that no batch holds an identity twice. An identity's images are gone through likewise, so that all
    of them are seen about equally often; where an identity has fewer than K images, some come twice.

    Args:
        index: of the training split.
        seed: of the run.
        step: of the optimizer, from 0.
        identities_per_batch: P.
        images_per_identity: K.

    Returns:
        `(P * K,)` int64 image indices, an identity's K images side by side.

    Raises:
        ValueError: there are fewer than P identities.
    """
    batches_per_pass = index.num_identities // identities_per_batch
    if batches_per_pass == 0:
        raise ValueError(
            f"A batch of {identities_per_batch} identities cannot be drawn from {index.num_identities}: "
            "use a smaller batch or more images of each identity."
        )
    pass_number, batch = divmod(step, batches_per_pass)
    identities = _permutation(index.num_identities, seed, _IDENTITY_ORDER, pass_number)
    chosen = identities[batch * identities_per_batch : (batch + 1) * identities_per_batch]
    return np.concatenate(
        [_images_of(index, identity, seed, pass_number, images_per_identity) for identity in chosen.tolist()]
    )


def _images_of(index: IdentityIndex, identity: int, seed: int, pass_number: int, count: int) -> np.ndarray:
    """The `count` images an identity shows in a pass: consecutive ones of an endless row of shufflings."""
    images = index.images[identity]
    # Each shuffling is cut to a multiple of K where possible, so that no image comes twice in one batch.
    cycle = len(images) - len(images) % count if len(images) >= count else len(images)
    positions = np.arange(pass_number * count, (pass_number + 1) * count)
    shufflings = {
        int(number): _permutation(len(images), seed, _IMAGE_ORDER, identity, int(number))
        for number in np.unique(positions // cycle)
    }
    return images[[shufflings[int(position // cycle)][position % cycle] for position in positions]]


def _permutation(length: int, *words: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words))).permutation(length)
