"""SRGA: will this super-resolution network still work on pictures it has never seen?

Liu, Zhao, Gu, Qiao, Dong: Evaluating the Generalization Ability of Super-Resolution Networks, IEEE
TPAMI 45(12), 2023, https://arxiv.org/abs/2205.07019.

    from lowvis_srga import FeatureBank, srga

    clean = FeatureBank.from_features(features_of_clean_patches)  # (n, p), or from_npy("clean.npy")
    blurred = FeatureBank.from_features(features_of_blurred_patches, reference=clean)
    srga(clean, blurred).value  # 0: treated alike; larger: generalizes worse
"""

from importlib.metadata import version
from importlib.resources import files

from lowvis_shared.plugins import PackageInfo

from lowvis_srga.bank import FeatureBank as FeatureBank
from lowvis_srga.bank import FeatureStore as FeatureStore
from lowvis_srga.comparison import Comparison as Comparison
from lowvis_srga.comparison import srga as srga
from lowvis_srga.conditions import open_sets as open_sets
from lowvis_srga.features import open_tap as open_tap
from lowvis_srga.features import tap_module as tap_module
from lowvis_srga.patches import PatchSet as PatchSet
from lowvis_srga.patches import make_sets as make_sets
from lowvis_srga.pies import read_pies as read_pies
from lowvis_srga.pies import write_pies as write_pies
from lowvis_srga.scoring import Scoring as Scoring
from lowvis_srga.scoring import Settings as Settings
from lowvis_srga.scoring import score as score
from lowvis_srga.statistics import GeneralizedGaussian as GeneralizedGaussian
from lowvis_srga.statistics import fit_ggd as fit_ggd
from lowvis_srga.statistics import kld_ggd as kld_ggd
from lowvis_srga.statistics import srga_index as srga_index

__version__ = version("lowvis-srga")

PACKAGE = PackageInfo(
    word="srga",
    title="Evaluating the Generalization Ability of Super-Resolution Networks",
    paper="Liu, Zhao, Gu, Qiao, Dong. IEEE TPAMI 45(12), 2023",
    url="https://arxiv.org/abs/2205.07019",
    verb="score",
    models=(),
    paper_toml=files("lowvis_srga") / "paper.toml",
    trains=False,
)
