"""The cost of networks: of published ones what is published, of small functions what a hand counts."""

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.model_table import cost_of, table
from configs import synthetic
from mfg_jax.models import MFGNet
from mfg_jax.models.cost import count_multiply_adds


def test_resnet_50_has_its_published_size_and_cost():
    # One global vector at full stride, with nothing between pooling and classifier, is the published network.
    model = MFGNet(
        num_identities=1000,
        last_stride=2,
        branch_from=(5, 0),
        granularities=(1,),
        attention="none",
        pooling="average",
        head_width=0,
        bnneck=False,
    )
    cost = cost_of(model, 224, 224)
    assert cost.parameters == 23_508_032
    # torchvision states 25,557,032 with the classifier's 1,000 biases, which ours has not.
    assert cost.parameters + cost.classifier_parameters == 25_557_032 - 1_000
    # And 4.089 G, with the classifier.
    assert round((cost.multiply_adds + cost.classifier_parameters) / 1e9, 3) == 4.089
    assert cost.embedding_size == 2048


def test_multiply_adds_are_those_counted_by_hand():
    def shape(*sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    assert count_multiply_adds(lambda a, b: jax.nn.relu(a @ b), shape(3, 5), shape(5, 7)) == 3 * 5 * 7
    batched = count_multiply_adds(
        lambda a, b: jnp.einsum("bij,bjk->bik", a, b), shape(2, 3, 5), shape(2, 5, 7)
    )
    assert batched == 2 * 3 * 5 * 7

    def convolve(x, kernel, groups):
        return lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    # A stride of 2 leaves 4 x 4 of 8 x 8 places; each output channel sees the input channels of its group.
    for groups, seen in ((1, 6), (3, 2)):
        counted = count_multiply_adds(
            lambda x, k, groups=groups: jax.jit(convolve, static_argnums=2)(x, k, groups),
            shape(1, 8, 8, 6),
            shape(3, 3, seen, 12),
        )
        assert counted == 4 * 4 * 3 * 3 * seen * 12

    def repeated(x, kernel):
        return lax.scan(lambda carry, _: (carry @ kernel, None), x, None, length=4)[0]

    assert count_multiply_adds(repeated, shape(2, 3), shape(3, 3)) == 4 * 2 * 3 * 3


def test_the_table_states_the_demos_embedding():
    lines = table([("demo", synthetic.get_config())]).splitlines()
    # Eight vectors of 64.
    assert lines[-1].split()[0] == "demo"
    assert lines[-1].split()[-1] == "512"
