"""The AIM 2020 challenge on efficient super-resolution: rank networks as it did.

Zhang, Danelljan, Li, Timofte et al.: AIM 2020 Challenge on Efficient Super-Resolution: Methods and
Results, ECCV 2020 Workshops, https://arxiv.org/abs/2009.06943.

    from lowvis_aim2020 import Upscaler, measure, rank
    from lowvis_aim2020.networks.rfdn import RFDN
    from lowvis_shared.images import read_image, write_image

    measure(RFDN(), (256, 256))  # parameters, FLOPs, activations, convolutions, memory

    ranking = rank(["rfdn-x4", "folded-x4"], input_size=(64, 64))  # beside the baseline
    for entry in ranking.entries:
        print(entry.title, entry.value("run_time"), ranking.gain(entry, "run_time"))

    upscaler = Upscaler("folded-x4")  # own weights, in the package
    write_image(upscaler(read_image("photo.jpg")), "photo_x4.png")
"""

from functools import partial
from importlib.metadata import version
from importlib.resources import files

from lowvis_shared.candidates import Candidate as Candidate
from lowvis_shared.plugins import ModelEntry, PackageInfo

from lowvis_aim2020.candidates import find_candidate as find_candidate
from lowvis_aim2020.evaluate import evaluate_network as evaluate_network
from lowvis_aim2020.model import NETWORKS as NETWORKS
from lowvis_aim2020.model import Network as Network
from lowvis_aim2020.predict import Upscaler as Upscaler
from lowvis_aim2020.ranking import Entry as Entry
from lowvis_aim2020.ranking import Ranking as Ranking
from lowvis_aim2020.ranking import measure as measure
from lowvis_aim2020.ranking import rank as rank
from lowvis_aim2020.validation import validate as validate
from lowvis_aim2020.weights import load_network

__version__ = version("lowvis-aim2020")


def _model_entry(network: Network) -> ModelEntry:
    radius = network.receptive_radius
    return ModelEntry(
        name=network.name,
        scale=network.scale,
        build=network.build,
        load=partial(load_network, network),
        receptive_radius=radius or 0,
        tiling="global" if radius is None else "local",
        task="super-resolution",
        weights=network.weights,
    )


PACKAGE = PackageInfo(
    word="aim2020",
    title="AIM 2020 Challenge on Efficient Super-Resolution: Methods and Results",
    paper="Kai Zhang, Martin Danelljan, Yawei Li, Radu Timofte, et al. ECCV 2020 Workshops",
    url="https://arxiv.org/abs/2009.06943",
    verb="rank",
    models=tuple(_model_entry(network) for network in NETWORKS.values()),
    paper_toml=files("lowvis_aim2020") / "paper.toml",
)
