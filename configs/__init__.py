"""Configurations: `default.py` comments every field; the others override a few of them."""
