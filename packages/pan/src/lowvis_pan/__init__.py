"""PAN: super-resolution x2, x3 and x4 with 272 thousand parameters and pixel attention.

Zhao, Kong, He, Qiao, Dong: Efficient Image Super-Resolution Using Pixel Attention,
ECCV 2020 Workshops, https://arxiv.org/abs/2010.01073.

    from lowvis_pan import PAN, Upscaler, evaluate_network, load_pairs
    from lowvis_shared.images import read_image, write_image

    upscaler = Upscaler(scale=4)  # own weights, in the package
    photo = read_image("photo.jpg")  # depth, alpha, profile and metadata are kept
    write_image(upscaler(photo), "photo_x4.png")

    network = PAN.from_pretrained("x4", weights="official")  # a plain nn.Module
    evaluation = evaluate_network(network, load_pairs("set5", 4), scale=4)
    evaluation.psnr, evaluation.protocol.describe()
"""

from functools import partial
from importlib.metadata import version
from importlib.resources import files

from lowvis_shared.pairs import Evaluation as Evaluation
from lowvis_shared.pairs import Pair as Pair
from lowvis_shared.pairs import load_pairs as load_pairs
from lowvis_shared.plugins import ModelEntry, PackageInfo

from lowvis_pan.evaluate import evaluate_network as evaluate_network
from lowvis_pan.model import PAN as PAN
from lowvis_pan.model import SCALES as SCALES
from lowvis_pan.model import PANConfig as PANConfig
from lowvis_pan.predict import Upscaler as Upscaler
from lowvis_pan.predict import upscale as upscale
from lowvis_pan.weights import resolve_weights

__version__ = version("lowvis-pan")


def _load(scale: int, weights: str, *, accept_licence: bool = False, offline: bool = False) -> PAN:
    path = resolve_weights(weights, scale, accept_licence=accept_licence, offline=offline)
    return PAN.from_pretrained(f"x{scale}", weights=path)


def _model_entry(scale: int) -> ModelEntry:
    config = PANConfig(scale=scale)
    return ModelEntry(
        name=f"pan-x{scale}",
        scale=scale,
        build=lambda: PAN(config),
        load=partial(_load, scale),
        receptive_radius=config.receptive_radius,
        tiling="local",
        task="super-resolution",
        weights=("own", "official"),
    )


PACKAGE = PackageInfo(
    word="pan",
    title="Efficient Image Super-Resolution Using Pixel Attention",
    paper="Hengyuan Zhao, Xiangtao Kong, Jingwen He, Yu Qiao, Chao Dong. ECCV 2020 Workshops",
    url="https://arxiv.org/abs/2010.01073",
    verb="upscale",
    models=tuple(_model_entry(scale) for scale in SCALES),
    paper_toml=files("lowvis_pan") / "paper.toml",
)
