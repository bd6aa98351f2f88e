"""Cut the picture of the README out of what ``make demo`` wrote.

Both halves of the comparison are cut at the same place, so that the eye can go from one to the
other: bicubic interpolation left, PAN right.
"""

from dataclasses import replace
from pathlib import Path

from lowvis_shared.images import comparison, read_image, write_image

ROOT = Path(__file__).parents[1]
TOP, LEFT, HEIGHT, WIDTH = 330, 560, 400, 440
"""Where the cat looks at the reader, in pixels of the upscaled photograph."""


def main() -> None:
    """Write ``docs/demo.png``."""
    both = read_image(ROOT / "demo" / "chelsea_compare.png")
    upscaled = read_image(ROOT / "demo" / "chelsea.png")
    rows, columns = slice(TOP, TOP + HEIGHT), slice(LEFT, LEFT + WIDTH)
    before = replace(both, pixels=both.pixels[:, : upscaled.width][rows, columns])
    after = replace(upscaled, pixels=upscaled.pixels[rows, columns])
    write_image(comparison(before, after), ROOT / "docs" / "demo.png", overwrite=True)


if __name__ == "__main__":
    main()
