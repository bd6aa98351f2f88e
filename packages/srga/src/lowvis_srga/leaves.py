"""Pictures made by chance with the statistics of photographs, for those who give none of theirs.

The dead-leaves model: opaque shapes of all sizes fall on each other until nothing of the ground is
seen. With radii r distributed as r^-3 the picture has sharp edges at every scale, and statistics
that do not change with scale, as natural scenes have (Lee, Mumford, Huang, IJCV 2001).
"""

import cv2
import numpy as np
from lowvis_shared.color import linear_to_srgb
from lowvis_shared.errors import UsageError
from numpy.typing import NDArray

_OVERSAMPLING = 2  # drawn this much larger and reduced by averaging: smooth edges
_SMALLEST = 2.0  # radius of the smallest leaf in pixels of the result
_LAYERS = 7.0  # how often the picture is covered, on average


def dead_leaves(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Return a picture of overlapping leaves, the same for the same arguments.

    Args:
        height: Rows.
        width: Columns.
        seed: Source of chance.

    Returns:
        (height, width, 3) sRGB.

    Raises:
        UsageError: A size is not positive.
    """
    if height < 1 or width < 1:
        raise UsageError(f"a picture of {width} x {height} pixels: both are at least 1")
    generator = np.random.default_rng(seed)
    rows, columns = height * _OVERSAMPLING, width * _OVERSAMPLING
    radii = _radii(generator, rows, columns)
    centers = generator.random((len(radii), 2)) * (columns, rows)
    labels = _draw(generator, rows, columns, centers, radii)

    # Brightness of a pixel: 1 + a (x - x0) + b (y - y0) + c * grain + d * fibres, by its leaf.
    strength = generator.normal(0, 0.16, (len(radii), 2)) / radii[:, np.newaxis]
    strength[0] = 0  # the ground reaches further than any leaf
    constant = 1 - (strength * centers).sum(axis=1, keepdims=True)
    textures = np.abs(generator.normal(0, (0.09, 0.07), (len(radii), 2)))
    table = np.concatenate([strength, constant, textures], axis=1).astype(np.float32)
    of_pixel = table.take(labels, axis=0)  # (rows, columns, 5)
    shade = of_pixel[..., 0] * np.arange(columns, dtype=np.float32)
    shade += of_pixel[..., 1] * np.arange(rows, dtype=np.float32)[:, np.newaxis]
    shade += of_pixel[..., 2]
    shade += of_pixel[..., 3] * _texture(generator, rows, columns, stretch=1)
    shade += of_pixel[..., 4] * _texture(generator, rows, columns, stretch=8)
    picture = _colors(generator, len(radii)).take(labels, axis=0)
    picture *= shade[..., np.newaxis]
    reduced = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return np.rint(np.clip(reduced, 0, 1) * 255).astype(np.uint8)


def _radii(generator: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """Draw radii of density r^-3, as many as cover the picture `_LAYERS` times."""
    low = _SMALLEST * _OVERSAMPLING
    high = max(0.3 * min(rows, columns), 2 * low)
    # Mean of r^2 under the density: 2 ln(high / low) / (1 / low^2 - 1 / high^2).
    mean_area = np.pi * 2 * np.log(high / low) / (low**-2 - high**-2)
    count = int(np.ceil(_LAYERS * rows * columns / mean_area)) + 1
    chance = generator.random(count)
    return (low**-2 - chance * (low**-2 - high**-2)) ** -0.5


def _draw(
    generator: np.random.Generator,
    rows: int,
    columns: int,
    centers: NDArray[np.float64],
    radii: NDArray[np.float64],
) -> NDArray[np.int32]:
    """Return the number of the leaf on top at each pixel, (rows, columns)."""
    count = len(radii)
    corners = generator.integers(3, 8, count)
    angles = np.sort(generator.random((count, 7)), axis=1) * 2 * np.pi
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    # Corners on a circle make a convex shape, a little larger to have the area of a disc.
    points = centers[:, np.newaxis] + 1.2 * radii[:, np.newaxis, np.newaxis] * directions
    whole_points = np.rint(points).astype(np.int32)
    whole_centers = np.rint(centers).astype(int).tolist()
    whole_radii = np.rint(radii).astype(int).tolist()
    round_ones = (generator.random(count) < 0.5).tolist()
    # Leaf 0 is the ground, on which nothing may have fallen here and there.
    labels = np.zeros((rows, columns), np.int32)
    for leaf in range(1, count):
        if round_ones[leaf]:
            cv2.circle(labels, whole_centers[leaf], whole_radii[leaf], (leaf,), cv2.FILLED)
        else:
            cv2.fillConvexPoly(labels, whole_points[leaf, : corners[leaf]], (leaf,))
    return labels


def _colors(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Draw sRGB colors, (count, 3): log-normal light, more yellow and blue than red and green.

    Such are the principal axes of color in natural scenes (Ruderman, Cronin, Chiao, JOSA A 1998).
    """
    light, yellow, red = generator.normal((-1.7, 0.12, 0), (0.9, 0.22, 0.09), (count, 3)).T
    logarithms = np.stack([light + yellow + red, light + yellow - red, light - yellow], axis=1)
    return linear_to_srgb(np.clip(np.exp(logarithms), 0, 1)).astype(np.float32)


def _texture(
    generator: np.random.Generator, rows: int, columns: int, *, stretch: int
) -> NDArray[np.float32]:
    """Return noise with a spectrum near 1/f, (rows, columns), mean 0; longer along columns."""
    texture = np.zeros((rows, columns), np.float32)
    for octave in range(5):
        step = 2**octave
        shape = (rows // (step * stretch) + 2, columns // step + 2)
        noise = generator.standard_normal(shape, np.float32)
        texture += cv2.resize(noise, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return texture / np.float32(np.sqrt(5))
