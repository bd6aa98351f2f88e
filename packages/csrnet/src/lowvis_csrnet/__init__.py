"""CSRNet: photo retouching with 36 thousand parameters, at full resolution and as a LUT.

He, Liu, Qiao, Dong: Conditional Sequential Modulation for Efficient Global Image Retouching, ECCV
2020, https://arxiv.org/abs/2009.10390; its journal version, with CSRNet-L: Liu, He, Chen, Zhang,
Zhao, Dong, Qiao: Very Lightweight Photo Retouching Network with Conditional Sequential Modulation,
IEEE Transactions on Multimedia 2022, https://arxiv.org/abs/2104.06279.

    from lowvis_csrnet import Lut3D, Retoucher
    from lowvis_shared.images import read_image, write_image

    retoucher = Retoucher(strength=0.8)  # own weights, in the package
    photo = read_image("photo.jpg")  # depth, alpha, profile and metadata are kept
    write_image(retoucher(photo), "retouched.jpg")

    look = retoucher.bake(photo)  # a Lut3D: what was done to this photograph
    look.save("look.cube")
    look.apply(other.pixels)
"""

from functools import partial
from importlib.metadata import version
from importlib.resources import files

from lowvis_shared.plugins import ModelEntry, PackageInfo
from torch import nn

from lowvis_csrnet.lut import Lut3D as Lut3D
from lowvis_csrnet.model import NETWORKS as NETWORKS
from lowvis_csrnet.model import CSRNet as CSRNet
from lowvis_csrnet.model import CSRNetConfig as CSRNetConfig
from lowvis_csrnet.model import CSRNetL as CSRNetL
from lowvis_csrnet.predict import Look as Look
from lowvis_csrnet.predict import Retoucher as Retoucher
from lowvis_csrnet.predict import apply_look as apply_look
from lowvis_csrnet.predict import bake as bake
from lowvis_csrnet.predict import condition as condition
from lowvis_csrnet.predict import retouch as retouch
from lowvis_csrnet.weights import load

__version__ = version("lowvis-csrnet")


def _load(
    network: str, weights: str, *, accept_licence: bool = False, offline: bool = False
) -> nn.Module:
    return load(network, weights, accept_licence=accept_licence, offline=offline).network


def _model_entry(network: str, *weights: str) -> ModelEntry:
    return ModelEntry(
        name=network,
        scale=1,
        build=partial(NETWORKS[network], None),
        load=partial(_load, network),
        receptive_radius=0,
        tiling="global",
        task="photo retouching",
        weights=weights,
    )


PACKAGE = PackageInfo(
    word="csrnet",
    title="Very Lightweight Photo Retouching Network with Conditional Sequential Modulation",
    paper="Yihao Liu, Jingwen He, Xiangyu Chen, Zhengwen Zhang, Hengyuan Zhao, Chao Dong, Yu Qiao. "
    "IEEE Transactions on Multimedia 2022",
    url="https://arxiv.org/abs/2104.06279",
    verb="retouch",
    models=(_model_entry("csrnet", "own", "official"), _model_entry("csrnet-l", "own")),
    paper_toml=files("lowvis_csrnet") / "paper.toml",
)
