"""The ONNX file against the network, in another runtime."""

import importlib.util
import json

import numpy as np
import pytest

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("jax2onnx") is None,
        reason="needs requirements-onnx.txt, for make test-parity",
    ),
]


# The converter uses what other libraries have deprecated.
@pytest.mark.filterwarnings("ignore")
def test_the_onnx_file_gives_the_same_embeddings(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend("tests")
    import onnxruntime
    from tiny_run import tiny_config, write_run

    import mfg_jax
    from mfg_jax import export as exporting

    monkeypatch.setattr(exporting, "_SPEED_REPEATS", 1)
    config = tiny_config()
    model = mfg_jax.load(write_run(tmp_path / "run", config))
    exported = exporting.export(model, tmp_path / "network.onnx", file_format="onnx")
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    name = exported.description["format"]["input_name"]
    for batch in (1, 7):
        images = np.random.default_rng(batch).integers(0, 256, (batch, *model.image_size, 3), dtype=np.uint8)
        (features,) = session.run(None, {name: images})
        assert np.linalg.norm(features - model.embed(images), axis=1).max() <= 1e-5
    assert json.loads(exported.description_path.read_text())["format"]["name"] == "onnx"
