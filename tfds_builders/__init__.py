"""TFDS dataset builders for vehicle re-identification; they need neither `mfg_jax` nor TensorFlow."""
