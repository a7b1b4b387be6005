"""Argmin layers for PyTorch that come with a proof."""
