"""Every field, with its unit and origin; the other configurations override a few of them.

"Paper" marks what the MFG-Net paper (Xu et al., Array 14:100152, 2022) says; "ours" what it leaves open, or what we did
not find in the excerpts at hand, decided by us after MGN (Wang et al., 2018) and BoT (Luo et al., 2019).

This file is not run by itself: it has no dataset.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.networks import NETWORKS


def get_config(network: str = "mfg") -> ConfigDict:
    """The paper's recipe as we read it, without a dataset.

    Args:
        network: a name of `configs.networks.NETWORKS`; on the command line `--config=configs/vric.py:NAME`.
    """
    config = ConfigDict()
    config.seed = 0  # decides initial weights, sampling and augmentation

    # Data
    data = config.data = ConfigDict()
    data.dataset = placeholder(str)  # TFDS name, with a configuration after a slash where it has several
    data.data_dir = placeholder(
        str
    )  # where TFDS keeps prepared datasets; None: TFDS_DATA_DIR or ~/tensorflow_datasets
    data.manual_dir = placeholder(str)  # where the downloaded release lies; None: <data_dir>/downloads/manual
    data.height = 256  # pixels; ours
    data.width = 256  # pixels; ours
    data.threads = 2  # decoding threads of each process (0 worker processes) or of each worker
    data.workers = 0  # decoding worker processes; 0: decode in threads of the main process

    # Model: the arguments of mfg_jax.models.MFGNet
    model = config.model = ConfigDict()
    model.depth = 50  # ResNet-50; ours
    model.width = 64  # channels of the first stage; as published
    model.stem_stride = 4  # 7x7 convolution and max pooling; as published
    model.last_stride = 1  # stage 4 does not halve the map, so that stripes are two times as fine; ours
    model.ibn = False  # IBN-a: instance normalisation of half the channels in stages 1 to 3; ours
    model.branch_from = (
        3,
        1,
    )  # (stage, block) from which each branch has blocks of its own; (5, 0): none; ours
    model.granularities = (1, 2, 3)  # global, and fine-grained parts (paper); these (ours). (2, 3): a grid
    model.branch_globals = True  # branches with parts have a global vector too; ours
    model.attention = "branch"  # channel attention (paper); at each branch's end (ours); or "none", "block"
    model.attention_reduction = 16  # of squeeze-and-excitation; ours
    model.pooling = "max"  # or "average", "gem"; ours
    model.head_width = 256  # of each of the eight vectors; 0: as wide as the last stage; ours
    model.bnneck = True  # batch normalisation between metric loss and classifier; ours
    model.identity_vectors = "all"  # with a classifier: or "globals", "parts"; ours
    model.triplet_vectors = "globals"  # in the metric loss: or "all", "parts", "none"; ours
    model.embedding_vectors = "all"  # in the embedding: or "globals", "parts"; ours
    model.dtype = "float32"  # to compute in; or "bfloat16"
    # Each of these is overridden by the network's name (configs/networks.py), and that by --config.model.x=v.
    if network not in NETWORKS:
        raise ValueError(f"There is no network {network!r}; there are {', '.join(NETWORKS)}.")
    model.update(NETWORKS[network])

    # Training
    train = config.train = ConfigDict()
    train.epochs = 40  # an epoch is (training images / batch size) steps; paper, for VRIC
    train.batch_size = 32  # images, over all devices; paper, for VRIC
    train.images_per_identity = 4  # K of P x K sampling; ours
    train.pretrained = placeholder(str)  # file of weights to start from: docs/pretrained.md
    train.accumulation_steps = 1  # slices of a batch, to save memory; batch statistics are then a slice's
    train.rematerialise = False  # to save memory, compute residual blocks again for the gradient
    train.max_steps = placeholder(int)  # stop after this many optimizer steps, for trials; None: no limit
    train.log_every_steps = 50  # steps between two lines of metrics
    train.profile_steps = ()  # (10, 15): trace these steps, counted from the start of the process, into profile/
    # Where compiled code is kept for the next start; None: ~/.cache/mfg_jax/xla; "": nowhere.
    train.compilation_cache = placeholder(str)

    # Augmentation, in the order it is done: the arguments of mfg_jax.data.augment.augment; ours
    augment = config.augment = ConfigDict()
    augment.flip_probability = 0.5
    augment.crop_padding = 10  # pixels
    augment.brightness = 0.2  # factor within 1 +- this
    augment.contrast = 0.15
    augment.saturation = 0.1  # little: a vehicle's colour is part of its identity
    augment.erase_probability = 0.5

    # Loss; ours
    loss = config.loss = ConfigDict()
    loss.label_smoothing = 0.1
    loss.identity_weight = 1.0  # of the mean cross-entropy over all heads
    loss.metric_loss = "triplet"  # batch-hard; or "weighted_triplet" (AGW), "circle", "none"
    loss.metric_weight = 1.0  # of its mean over the vectors that carry it
    loss.triplet_margin = 0.3  # of "triplet": Euclidean distance by which the negative has to be farther
    loss.triplet_soft_margin = False  # of "triplet": log(1 + exp(d_p - d_n)) in place of the margin
    loss.circle_margin = 0.25  # of "circle": m, in cosine similarity
    loss.circle_scale = 128.0  # of "circle": gamma; the loss grows with it, so give a smaller metric_weight

    # Optimizer
    optimizer = config.optimizer = ConfigDict()
    optimizer.name = "sgd"  # or "adam" (weight decay in the gradient), "adamw" (decoupled); ours
    optimizer.base_rate = 0.01  # ours
    optimizer.decay_epochs = (15, 30)  # after which the rate decays; paper, for VRIC
    optimizer.decay_factor = 0.1  # paper, for VRIC
    optimizer.warmup_epochs = 0.0  # linear rise from a hundredth; ours
    optimizer.momentum = 0.9  # of sgd; ours
    optimizer.weight_decay = 5e-4  # on kernels alone; ours
    optimizer.clip_norm = placeholder(float)  # of the global gradient; None: not clipped
    optimizer.ema_decay = placeholder(
        float
    )  # evaluate and keep a moving average of the weights, such as 0.999 a step; None: the weights; ours

    # Evaluation
    evaluate = config.evaluate = ConfigDict()
    evaluate.protocol = placeholder(str)  # by name: mfg_jax.retrieval.protocols
    evaluate.batch_size = 32  # images, over all devices; paper, for VRIC
    evaluate.every_epochs = 10  # and always at the end
    evaluate.untrained = False  # also evaluate the network before its first step
    evaluate.seed = 0  # of the draws of protocols that have them
    evaluate.flip = False  # average the embeddings of an image and its mirror image
    evaluate.reranking = False  # k-reciprocal (k1 = 20, k2 = 6, lambda = 0.3), beside the plain numbers
    evaluate.query_expansion = False  # alpha query expansion (5 neighbours, alpha = 3), likewise
    # Images of query and gallery in TensorBoard's projector, whole identities; 0: none. A thousand take about 27 MB.
    evaluate.projector_images = 1000

    # Checkpoints
    checkpoint = config.checkpoint = ConfigDict()
    checkpoint.every_steps = placeholder(int)  # None: at the end of every epoch
    checkpoint.keep_latest = 2  # the newest; besides them are kept:
    checkpoint.best_metric = "mAP"  # the best by this; or "mINP", "CMC@1", "CMC@5", "CMC@10"
    checkpoint.keep_every_steps = placeholder(int)  # those of multiples of this, for good; None: none

    # Devices
    parallel = config.parallel = ConfigDict()
    parallel.mapping = "shard_map"  # or "pmap": the same results, slower across processes
    # A configuration that starts from this one overrides fields; it cannot misspell one.
    return config.lock()
