"""Degradations by name: Gaussian blur, noise, JPEG, and mixtures of them, as SRGA is measured on.

The paper does not say how its degradations were made; the procedure here is the one of this
package's check figures. A high-resolution picture is blurred and reduced (antialiased bicubic, not
clipped in between); each low-resolution patch then receives noise, is clipped and rounded to 8
bits, and is compressed.

Names are ``clean``, ``blur2`` (standard deviation in pixels of the high-resolution picture),
``blur21-6`` (a kernel 21 pixels wide, standard deviation 6), ``noise10`` (standard deviation in
codes of 255), ``jpeg50`` (quality), and mixtures in this order: ``blur2+noise10+jpeg50``.
"""

import io
import math
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from lowvis_shared.errors import UsageError
from lowvis_shared.resize import imresize
from numpy.typing import NDArray
from PIL import Image

Family: TypeAlias = Literal["clean", "blur", "noise", "jpeg", "mixture"]

NOISE_SEED = 123
"""Seed of the noise of a set; equal seeds make all levels of noise share one draw."""

GRAMMAR = (
    "clean, blur2, blur0.5, blur21-6 (kernel 21 wide, sigma 6), noise10 (sigma in codes of 255), "
    "jpeg50 (quality), or a mixture in this order: blur2+noise10+jpeg50"
)
"""The names that `parse_degradation` reads, by example."""

_BLURS = (0.1, 100.0)  # sigmas: narrower changes nothing, wider leaves nothing
_WHOLE = r"[1-9]\d{0,4}"
_NUMBER = rf"(?:0|{_WHOLE})(?:\.\d+)?"
_NAME = re.compile(
    rf"(?:blur(?:(?P<width>{_WHOLE})-)?(?P<blur>{_NUMBER}))?"
    rf"(?:(?:^|(?<=.)\+)noise(?P<noise>{_NUMBER}))?"
    rf"(?:(?:^|(?<=.)\+)jpeg(?P<jpeg>{_WHOLE}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Blur:
    """A separable Gaussian kernel.

    Attributes:
        sigma: Standard deviation in pixels, 0.1 to 100.
        width: Taps of the kernel along an axis, odd.

    Raises:
        UsageError: The standard deviation or the width is out of range.
    """

    sigma: float
    width: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        low, high = _BLURS
        if not low <= self.sigma <= high:
            raise UsageError(f"a blur of sigma {self.sigma:g}: it is {low:g} to {high:g}")
        widest = usual_width(high)
        if self.width % 2 == 0 or not 3 <= self.width <= widest:
            raise UsageError(
                f"a blur kernel {self.width} pixels wide: the width is odd, 3 to {widest}"
            )

    @property
    def weights(self) -> NDArray[np.float64]:
        """The taps along an axis, (width,), of sum 1."""
        offsets = np.arange(self.width) - self.width // 2
        weights = np.exp(-(offsets**2) / (2 * self.sigma**2))
        return weights / weights.sum()


def usual_width(sigma: float) -> int:
    """Return the width of a kernel that reaches three deviations, ``2 ceil(3 sigma) + 1``."""
    return 2 * math.ceil(3 * sigma) + 1


@dataclass(frozen=True, slots=True)
class Degradation:
    """What is done to a picture, in the order of the attributes; nothing where all are None.

    Attributes:
        blur: Kernel applied before the picture is reduced.
        noise: Standard deviation of the noise in codes of 255, above 0 and at most 255.
        jpeg: Quality of the compression, 1 to 100.

    Raises:
        UsageError: The noise or the quality is out of range.
    """

    blur: Blur | None = None
    noise: float | None = None
    jpeg: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.noise is not None and not 0 < self.noise <= 255:
            raise UsageError(f"noise of sigma {self.noise:g}: it lies above 0 and at most 255")
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise UsageError(f"JPEG of quality {self.jpeg}: it is 1 to 100")

    @property
    def steps(self) -> tuple[str, ...]:
        """The name of each single step; none when clean."""
        steps: list[str] = []
        if self.blur is not None:
            usual = self.blur.width == usual_width(self.blur.sigma)
            steps.append(f"blur{'' if usual else f'{self.blur.width}-'}{_text(self.blur.sigma)}")
        if self.noise is not None:
            steps.append(f"noise{_text(self.noise)}")
        if self.jpeg is not None:
            steps.append(f"jpeg{self.jpeg}")
        return tuple(steps)

    @property
    def name(self) -> str:
        """The one name under which `parse_degradation` gives an equal degradation."""
        return "+".join(self.steps) or "clean"

    @property
    def family(self) -> Family:
        """What kind of degradation it is."""
        if len(self.steps) > 1:
            return "mixture"
        if self.blur is not None:
            return "blur"
        if self.noise is not None:
            return "noise"
        return "clean" if self.jpeg is None else "jpeg"

    @property
    def degree(self) -> float | None:
        """Standard deviation of blur or noise, quality of JPEG, 0 when clean, None of a mixture."""
        if self.family == "mixture":
            return None
        if self.blur is not None:
            return self.blur.sigma
        return float(self.noise or self.jpeg or 0)


def parse_degradation(text: str) -> Degradation:
    """Return the degradation of a name, such as ``blur2`` or ``blur2+noise10+jpeg50``.

    Raises:
        UsageError: The name is not of the grammar, or a number in it is out of range.
    """
    if text == "clean":
        return Degradation()
    match = _NAME.fullmatch(text)
    if match is None or not text:
        raise UsageError(f"'{text}' is not the name of a degradation", hint=GRAMMAR)
    width, sigma, noise, jpeg = match.group("width", "blur", "noise", "jpeg")
    try:
        blur = None
        if sigma is not None:
            taps = usual_width(float(sigma)) if width is None else int(width)
            blur = Blur(float(sigma), taps)
        return Degradation(
            blur, None if noise is None else float(noise), None if jpeg is None else int(jpeg)
        )
    except UsageError as error:
        raise UsageError(f"'{text}': {error}", hint=GRAMMAR) from error


def reduce_picture(
    picture: NDArray[np.float64], blur: Blur | None, scale: int
) -> NDArray[np.float64]:
    """Blur a picture and make it smaller by ``scale``, in float64 and without clipping.

    The border is reflected with its edge pixels repeated. A scale of 1 resamples nothing.

    Args:
        picture: (H, W, 3) in 0..1; both sizes divide by ``scale``.
        blur: What comes before the reduction; nothing when None.
        scale: The factor.

    Returns:
        (H / scale, W / scale, 3); bicubic weights overshoot 0..1 at edges.
    """
    if blur is not None:
        weights = blur.weights
        blurred: NDArray[Any] = cv2.sepFilter2D(
            picture, cv2.CV_64F, weights, weights, borderType=cv2.BORDER_REFLECT
        )
        picture = blurred
    if scale == 1:
        return picture
    height, width = picture.shape[:2]
    return imresize(picture, size=(height // scale, width // scale))


def reduce_cell(
    picture: NDArray[np.uint8], top: int, left: int, size: int, blur: Blur | None, scale: int
) -> NDArray[np.float64]:
    """Return one cell of the picture that `reduce_picture` makes, without making the whole.

    Args:
        picture: (H, W, 3); both sizes divide by ``scale``.
        top: First row of the cell, in pixels of ``picture``; divides by ``scale``.
        left: First column, likewise.
        size: Rows and columns of the cell, likewise.
        blur: As in `reduce_picture`.
        scale: As in `reduce_picture`.

    Returns:
        (size / scale, size / scale, 3), equal to the whole picture's cell but for the order in
        which sums are rounded.
    """
    reach = 0 if blur is None else blur.width // 2
    # The bicubic kernel reaches two low-resolution pixels. Whole ones keep the window aligned.
    halo = (math.ceil(reach / scale) + (2 if scale > 1 else 0)) * scale
    # Cut at the borders of the picture, so that reflection happens there and nowhere else.
    first_row, first_column = max(top - halo, 0), max(left - halo, 0)
    window = picture[first_row : top + size + halo, first_column : left + size + halo]
    reduced = reduce_picture(window / 255.0, blur, scale)
    row, column, length = (top - first_row) // scale, (left - first_column) // scale, size // scale
    return reduced[row : row + length, column : column + length]


def finish(
    patch: NDArray[np.float64], degradation: Degradation, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Add noise to a reduced patch, round it to 8 bits and compress it.

    Args:
        patch: (h, w, 3), nominally in 0..1.
        degradation: Its blur has happened already.
        generator: Draws h x w x 3 samples when there is noise, and none otherwise.

    Returns:
        (h, w, 3): clipped and rounded half to even, JPEG by Pillow with its default settings.
    """
    if degradation.noise is not None:
        patch = patch + generator.normal(0, degradation.noise / 255, patch.shape)
    codes = np.rint(np.clip(patch, 0, 1) * 255).astype(np.uint8)
    if degradation.jpeg is None:
        return codes
    file = io.BytesIO()
    Image.fromarray(codes).save(file, format="JPEG", quality=degradation.jpeg)
    with Image.open(file) as image:
        return np.array(image)


def _text(number: float) -> str:
    """The shortest decimal text of a number, without an exponent."""
    return np.format_float_positional(number, trim="-")
