"""Test-wide settings: eight virtual CPU devices, and strict dtype and rank promotion."""

import os

# Before JAX is imported anywhere: tests of device-count invariance need several devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
