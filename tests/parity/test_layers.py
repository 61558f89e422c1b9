"""Single layers against PyTorch's own, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfg_jax.models import resnet

torch = pytest.importorskip("torch", reason="requirements-parity.txt is not installed")
pytestmark = pytest.mark.torch


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_max_pooling_and_its_gradient(size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    theirs_in = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    theirs = torch.nn.functional.max_pool2d(theirs_in, 3, 2, 1)
    ours, pull = jax.vjp(resnet.max_pool_3x3, jnp.asarray(x))
    np.testing.assert_array_equal(ours, theirs.detach().numpy().transpose(0, 2, 3, 1))
    cotangent = rng.normal(size=ours.shape).astype(np.float32)
    theirs.backward(torch.tensor(cotangent.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(
        pull(jnp.asarray(cotangent))[0], theirs_in.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-6
    )
