"""Hydra configurations of `lowvis-pan train`."""
