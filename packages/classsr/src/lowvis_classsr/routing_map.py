"""The classes of a picture, drawn over it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from lowvis_shared.images import Picture

from lowvis_classsr.router import Route

_COLORS = ((46, 160, 67), (242, 204, 48), (218, 54, 51))
"""Simple, medium, hard: green, yellow, red, as the authors paint them; others lie between."""

_STRENGTH = 0.45


def class_colors(classes: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return a color in 0..1 for each class, (classes, 3), simple to hard."""
    places = np.linspace(0, len(_COLORS) - 1, classes)
    known = np.array(_COLORS, np.float32) / 255
    channels = [np.interp(places, range(len(_COLORS)), known[:, each]) for each in range(3)]
    return np.stack(channels, 1).astype(np.float32)


def draw_routes(picture: Picture, routes: Sequence[Route], classes: int) -> Picture:
    """Return the picture, gray under the colors of its classes, with a line around each tile.

    Args:
        picture: What was upscaled.
        routes: Its routes; none where the original network upscaled all of it.
        classes: Number of classes.
    """
    gray = picture.to_float() @ np.array([0.299, 0.587, 0.114], np.float32)
    base = np.repeat(gray[..., None], 3, 2)
    colors = class_colors(classes)
    painted = base * (1 - _STRENGTH) + colors[-1] * _STRENGTH
    for route in routes:
        rows, columns = route.tile.core_rows, route.tile.core_columns
        color = colors[route.index]
        painted[rows, columns] = base[rows, columns] * (1 - _STRENGTH) + color * _STRENGTH
        painted[rows.start, columns] = painted[rows, columns.start] = color * 0.6
    pixels = np.clip(np.rint(painted * 255), 0, 255).astype(np.uint8)
    profile = None if picture.gray else picture.icc_profile  # a gray one would not fit colors
    return replace(picture, pixels=pixels, alpha=None, gray=False, icc_profile=profile)
