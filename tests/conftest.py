"""Test-wide settings: eight virtual CPU devices, and strict dtype and rank promotion."""

import atexit
import os
import shutil
import tempfile

# Before JAX is imported anywhere: tests of device-count invariance need several devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # What one test compiles, the commands that others start read back; and the user's own cache is left alone.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mfg_jax_compiled_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
