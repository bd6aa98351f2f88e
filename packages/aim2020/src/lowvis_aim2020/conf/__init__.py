"""Hydra configurations of `lowvis-aim2020 train`."""
