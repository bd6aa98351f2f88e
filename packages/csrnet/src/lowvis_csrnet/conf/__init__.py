"""Hydra configurations of `lowvis-csrnet train`."""
