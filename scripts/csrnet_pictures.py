"""Make the pictures of the README of lowvis-csrnet: before and after, and the LUT between them.

A photograph of scikit-image is spoilt by defects as in training, retouched with the weights in the
package, and its LUT drawn: what becomes of gray, and where colors move.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from lowvis_csrnet import Lut3D, Retoucher
from lowvis_csrnet.simulate import Defects
from lowvis_shared.color import rgb_to_lab
from lowvis_shared.images import Picture, comparison, write_image
from skimage import data

DOCS = Path(__file__).parents[1] / "docs"
DEFECTS = Defects(exposure=-1.2, warmth=-0.35, contrast=0.8, saturation=0.6, fade=0.04)


def main() -> None:
    """Write ``docs/csrnet.png`` and ``docs/csrnet_lut.png``."""
    original = data.coffee()[:400, :440]
    spoilt = DEFECTS(original.astype(np.float32) / 255)
    before = Picture(np.rint(spoilt * 255).astype(np.uint8))
    retoucher = Retoucher()
    write_image(comparison(before, retoucher(before)), DOCS / "csrnet.png", overwrite=True)
    draw(retoucher.bake(before))


def draw(lut: Lut3D) -> None:
    """Draw the curves of the gray axis, and how saturated colors move in the plane of a* and b*."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    codes = np.linspace(0, 1, 256, dtype=np.float32)
    gray = lut.sample(np.repeat(codes[:, np.newaxis], 3, axis=1))
    for channel, color in enumerate(("tab:red", "tab:green", "tab:blue")):
        left.plot(codes, gray[:, channel], color=color)
    left.plot([0, 1], [0, 1], color="black", linewidth=0.5)
    left.set(xlabel="gray in", ylabel="red, green and blue out", xlim=(0, 1), ylim=(-0.1, 1.25))
    left.set_title("the gray axis")
    axis = np.linspace(0.15, 0.75, 5, dtype=np.float32)
    colors = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    moved = np.clip(lut.sample(colors), 0, 1)
    start, end = rgb_to_lab(colors), rgb_to_lab(moved)
    step = end - start
    right.quiver(
        start[:, 1], start[:, 2], step[:, 1], step[:, 2],
        color=moved, angles="xy", scale_units="xy", scale=1, width=0.004,
    )  # fmt: skip
    right.set(xlabel="a*", ylabel="b*", aspect="equal", facecolor="0.92")
    right.set_title("where colors move")
    figure.savefig(DOCS / "csrnet_lut.png", dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
