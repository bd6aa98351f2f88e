"""Make the picture of the README of lowvis-classsr: a photograph, and who upscales which part.

A photograph of scikit-image, judged with the weights in the package.
"""

from pathlib import Path

from lowvis_classsr import Upscaler
from lowvis_classsr.routing_map import draw_routes
from lowvis_shared.images import Picture, comparison, write_image
from skimage import data

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Write ``docs/classsr.png``."""
    picture = Picture(data.astronaut())
    _, report = Upscaler(path="routed").run(picture)
    drawn = draw_routes(picture, report.routes, len(report.shares))
    write_image(comparison(picture, drawn), DOCS / "classsr.png", overwrite=True)


if __name__ == "__main__":
    main()
