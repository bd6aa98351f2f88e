"""Hydra configurations of `lowvis-classsr train`."""
