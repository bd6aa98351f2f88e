"""ClassSR: large pictures upscaled at about half the cost, each part by a network of fitting size.

Kong, Zhao, Qiao, Dong: ClassSR: A General Framework to Accelerate Super-Resolution Networks by Data
Characteristic, CVPR 2021, https://arxiv.org/abs/2103.04039.

    from lowvis_classsr import ClassSR, Upscaler
    from lowvis_shared.images import read_image, write_image

    upscaler = Upscaler()  # ClassSR-FSRCNN with own weights, in the package
    result, report = upscaler.run(read_image("photo.jpg"))
    write_image(result, "photo_x4.png")
    print(report.describe())

    network = ClassSR.from_pretrained("fsrcnn")  # a plain nn.Module, for patches
"""

from functools import partial
from importlib.metadata import version
from importlib.resources import files

from lowvis_shared.plugins import ModelEntry, PackageInfo
from torch import nn

from lowvis_classsr.branches import Upscaling
from lowvis_classsr.losses import average_loss as average_loss
from lowvis_classsr.losses import class_loss as class_loss
from lowvis_classsr.model import ClassSR as ClassSR
from lowvis_classsr.model import ClassSRConfig as ClassSRConfig
from lowvis_classsr.predict import Report as Report
from lowvis_classsr.predict import Upscaler as Upscaler
from lowvis_classsr.weights import OWN, open_weights

__version__ = version("lowvis-classsr")


def _original(network: str) -> Upscaling:
    return ClassSRConfig(network=network).build_branch(-1)


def _load_original(
    network: str, weights: str, *, accept_licence: bool = False, offline: bool = False
) -> nn.Module:
    del accept_licence, offline  # nothing is fetched
    return open_weights(weights, network).network.branches[-1]


def _model_entry(network: str) -> ModelEntry:
    """The hardest branch by itself, which other packages can rank and score."""
    radius = _original(network).receptive_radius
    return ModelEntry(
        name=f"classsr-{network}-x4",
        scale=4,
        build=partial(_original, network),
        load=partial(_load_original, network),
        receptive_radius=radius or 0,
        tiling="global" if radius is None else "local",
        task="super-resolution",
        weights=("own",),
    )


PACKAGE = PackageInfo(
    word="classsr",
    title="ClassSR: A General Framework to Accelerate Super-Resolution Networks by Data "
    "Characteristic",
    paper="Xiangtao Kong, Hengyuan Zhao, Yu Qiao, Chao Dong. CVPR 2021",
    url="https://arxiv.org/abs/2103.04039",
    verb="upscale",
    models=tuple(_model_entry(network) for network in OWN),
    paper_toml=files("lowvis_classsr") / "paper.toml",
)
