"""TFDS dataset builders for vehicle re-identification; importable without `mfg_jax` and without TensorFlow."""
