"""Test-wide settings: eight virtual CPU devices, and strict dtype and rank promotion."""

import atexit
import os
import pathlib
import shutil
import tempfile

# Before JAX is imported anywhere: tests of device-count invariance need several devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # What one test compiles, the commands that others start read back; and the user's own cache is left alone.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mfg_jax_compiled_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# JAX's own threshold, a second, would leave out most of what tests compile.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import pytest
from small_run import write_shared_release

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def vric_release(tmp_path_factory) -> pathlib.Path:
    """A small VRIC release that all tests of all of pytest's workers share; they may only read it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return write_shared_release(folder)
