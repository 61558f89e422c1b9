"""The commands of `python -m mfg_jax`, one a file: `add_arguments` declares its options, `run` does it."""
