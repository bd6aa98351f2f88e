"""The networks of this package by name, each with what is to be known of it.

The networks themselves stand in ``networks/``, one file for each family, readable with its paper at
hand. Attribute names are those of the authors' state dictionaries, so that their files load
strictly. All of them map (B, 3, H, W) RGB in 0..1 to (B, 3, H*scale, W*scale).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from lowvis_shared.assets import Asset, find_asset
from lowvis_shared.errors import UsageError
from torch import nn

from lowvis_aim2020.networks.bsrn import BSRN
from lowvis_aim2020.networks.carn import CARNM, CARNMConfig
from lowvis_aim2020.networks.folded import Folded, FoldedConfig
from lowvis_aim2020.networks.imdn import IMDN, IMDNBaseline, IMDNBaselineConfig, IMDNConfig
from lowvis_aim2020.networks.msrresnet import MSRResNet, MSRResNetConfig
from lowvis_aim2020.networks.rfdn import RFDN
from lowvis_aim2020.networks.rlfn import RLFN

BASELINE = "msrresnet-x4"
"""The challenge's baseline: entries keep its PSNR and are compared with its cost."""


def _as_it_is(network: nn.Module) -> nn.Module:
    return network


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One network of this package.

    Attributes:
        name: Such as ``"rfdn-x4"``.
        title: How the tables call it.
        scale: Upscaling factor.
        build: Makes it with random weights, as it runs and is ranked.
        receptive_radius: Input pixels on each side that an output pixel depends on; None for a
            network that looks at the whole picture.
        official: Name of the authors' file among the published assets; empty where there is none.
        own: Whether weights of our own lie in this package.
        build_for_training: Makes it as it trains; as it runs when left out.
        fold: Turns a trained one into one that runs.
        trains_as_it_runs: Whether weights as they run are a start for training.
    """

    name: str
    title: str
    scale: int
    build: Callable[[], nn.Module]
    receptive_radius: int | None
    official: str = ""
    own: bool = False
    build_for_training: Callable[[], nn.Module] | None = None
    fold: Callable[[nn.Module], nn.Module] = _as_it_is
    trains_as_it_runs: bool = True

    @property
    def asset(self) -> Asset | None:
        """The authors' file, or None."""
        return find_asset(self.official) if self.official else None

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights there are."""
        return ("own",) * self.own + ("official",) * bool(self.official)


def _imdn(scale: int) -> Network:
    return Network(
        name=f"imdn-x{scale}",
        title="IMDN",
        scale=scale,
        build=lambda: IMDN(IMDNConfig(scale=scale)),
        receptive_radius=None,  # contrast-aware channel attention pools over the whole picture
        official=f"aim2020/imdn-x{scale}/official",
    )


def _carn_m(scale: int) -> Network:
    config = CARNMConfig(scale=scale)
    return Network(
        name=f"carn-m-x{scale}",
        title="CARN-M",
        scale=scale,
        build=lambda: CARNM(config),
        build_for_training=lambda: CARNM(config).freeze_other_scales(),
        receptive_radius=config.receptive_radius,
        official="aim2020/carn-m/official",
    )


_ALL = (
    Network(
        name=BASELINE,
        title="MSRResNet (baseline)",
        scale=4,
        build=MSRResNet,
        receptive_radius=MSRResNetConfig().receptive_radius,
    ),
    Network(
        name="rfdn-x4",
        title="RFDN (winner of AIM 2020)",
        scale=4,
        build=RFDN,
        receptive_radius=None,  # its spatial attention has a grid that depends on the size
        official="aim2020/rfdn-x4/official",
    ),
    Network(
        name="imdn-baseline-x4",
        title="IMDN (winner of AIM 2019)",
        scale=4,
        build=IMDNBaseline,
        receptive_radius=IMDNBaselineConfig().receptive_radius,
        official="aim2020/imdn-baseline-x4/official",
    ),
    *(_imdn(scale) for scale in (2, 3, 4)),
    *(_carn_m(scale) for scale in (2, 3, 4)),
    Network(
        name="rlfn-x4",
        title="RLFN (NTIRE 2022)",
        scale=4,
        build=RLFN,
        receptive_radius=None,
        official="aim2020/rlfn-x4/official",
    ),
    Network(
        name="bsrn-x4",
        title="BSRN (NTIRE 2022)",
        scale=4,
        build=BSRN,
        receptive_radius=None,
        official="aim2020/bsrn-x4/official",
    ),
    Network(
        name="folded-x4",
        title="Folded (our entry)",
        scale=4,
        build=lambda: Folded(FoldedConfig(folded=True)),
        receptive_radius=FoldedConfig().receptive_radius,
        own=True,
        build_for_training=Folded,
        fold=lambda network: cast("Folded", network).fold(),
        trains_as_it_runs=False,
    ),
)

NETWORKS: Mapping[str, Network] = MappingProxyType({network.name: network for network in _ALL})
"""Every network of this package by name."""


def find_network(name: str) -> Network:
    """Return the network of a name; raises `UsageError` with the names there are."""
    if name not in NETWORKS:
        raise UsageError(f"there is no network '{name}'", hint=f"there are: {', '.join(NETWORKS)}")
    return NETWORKS[name]
