"""MFG-Net vehicle re-identification in JAX."""
