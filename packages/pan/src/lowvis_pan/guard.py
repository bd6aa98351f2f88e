"""A guard against the blow-up of super-resolution networks on pictures unlike photographs.

Weights trained on photographs amplify some patterns in every block: on noise, 1-bit dither,
checkerboards, stripes of one pixel or a lone white pixel the authors' networks reach 1e6 to 1e22.
Detection costs less than a hundredth of a run: the magnitude of the features that leave the trunk
blocks, and the range of the output, tell natural pictures and blow-ups apart by a wide margin.

A tile that blows up is run again with its contrast reduced around middle gray, and the result is
expanded again: f(c + a (x - c)) -> c + (f - c) / a. Natural detail survives this nearly unharmed.
What even that does not calm becomes plain bilinear upscaling, which never leaves 0..1.
"""

import math
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from lowvis_pan.fast import Engine, InferenceForm, bilinear_skip
from lowvis_pan.model import PAN

ATTENUATIONS = (0.35, 0.25)
"""Contrasts tried in turn on a tile that blows up."""

NATURAL_RANGE = (-1.0, 2.0)
"""Outputs beyond this count as blown up; on natural pictures they stay within -0.5..1.5."""

OUTPUT_RANGE = (-2.0, 3.0)
"""What every output lies in.

It is wider than ``NATURAL_RANGE`` since the network overshoots patterns of full contrast even where
it is stable, by up to 2, and the result is clipped in the end.
"""

_MIDDLE = 0.5
"""The gray around which contrast is reduced.

The mean of the tile, and local means, leave more patterns unbounded: a white pixel on black is then
far from the center.
"""

_CALIBRATION_PIXELS = 150_000
"""Most pixels of one picture that a limit is calibrated on."""


class Guard:
    """Runs an engine on tiles and steps in where the network blows up.

    Args:
        engine: What computes.
        limit: Magnitude of features above which a tile counts as blown up, as the weights'
            metadata say; infinity turns the guard off.

    Attributes:
        engine: What computes.
        limit: Magnitude of features above which the guard steps in.
        attenuated: Tiles on which it stepped in so far, by the contrast that was used at last;
            contrast 0 is bilinear upscaling.
    """

    def __init__(self, engine: Engine, limit: float) -> None:
        self.engine = engine
        self.limit = limit
        self.attenuated: Counter[float] = Counter()

    def __call__(self, image: Tensor) -> tuple[Tensor, bool]:
        """Upscale (1, 3, H, W) in 0..1.

        Returns:
            The output (1, 3, H*scale, W*scale) float32 within ``OUTPUT_RANGE``, and whether the
            guard stepped in. Where it did not, the output is the engine's, bit by bit.
        """
        output, magnitude = self.engine(image)
        if self.limit == float("inf") or self._is_stable(output, magnitude, NATURAL_RANGE):
            return output, False
        for contrast in ATTENUATIONS:
            attenuated, magnitude = self.engine(_MIDDLE + contrast * (image - _MIDDLE))
            expanded = _MIDDLE + (attenuated - _MIDDLE) / contrast
            if self._is_stable(expanded, magnitude, OUTPUT_RANGE):
                self.attenuated[contrast] += 1
                return expanded, True
        self.attenuated[0.0] += 1
        return bilinear_skip(image.to(output), self.engine.scale), True

    def _is_stable(self, output: Tensor, magnitude: float, bounds: tuple[float, float]) -> bool:
        # Written so that NaN, for which every comparison is false, is not stable.
        low, high = (float(bound) for bound in output.aminmax())
        return magnitude <= self.limit and bounds[0] <= low and high <= bounds[1]


@torch.no_grad()
def calibrate_limit(network: PAN, images: Iterable[Tensor]) -> float:
    """Return the limit of a guard for trained weights: four times the largest natural magnitude.

    Blow-ups grow by about ten in each block, so that a generous factor loses none that matters, and
    charts and text reach twice what photographs do. Smaller blow-ups show in the output's range.

    Args:
        network: The trained network.
        images: Natural low-resolution pictures (1, 3, H, W) in 0..1, some ten or more, taken one
            at a time. Of a larger one only the middle 150,000 pixels count, which bounds memory.
    """
    weight = network.conv_first.weight
    form = InferenceForm(network)
    return 4 * max(float(form(_middle(image).to(weight))[1]) for image in images)


def _middle(image: Tensor) -> Tensor:
    """Return the middle of a picture, of its shape and at most ``_CALIBRATION_PIXELS``."""
    height, width = image.shape[2:]
    share = min(1.0, math.sqrt(_CALIBRATION_PIXELS / (height * width)))
    rows = max(1, int(height * share))
    columns = min(width, _CALIBRATION_PIXELS // rows) if share < 1 else width
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[:, :, top : top + rows, left : left + columns]
