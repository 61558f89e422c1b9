"""Measurements; each module's docstring says how to run it, what was predicted and what was found."""
