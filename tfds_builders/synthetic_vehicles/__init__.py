"""Synthetic vehicles: a renderer, a TFDS builder, and releases in the official on-disk forms."""
