"""PAN for spandrel, the model loader of chaiNNer, ComfyUI and others.

Needs the extra ``pip install 'lowvis-pan[spandrel]'``. Install it once, then load any PAN file::

    from lowvis_pan import spandrel_bridge
    from spandrel import ModelLoader

    spandrel_bridge.install()
    model = ModelLoader().load_from_file("PANx4_DF2K.pth")
"""

from collections.abc import Mapping

from lowvis_shared.errors import MissingExtraError
from torch import Tensor

from lowvis_pan.identify import config_of, is_pan
from lowvis_pan.model import PAN

try:
    from spandrel import (
        MAIN_REGISTRY,
        Architecture,
        ArchRegistry,
        ArchSupport,
        ImageModelDescriptor,
    )
except ModuleNotFoundError as error:
    raise MissingExtraError("lowvis-pan", "spandrel") from error


class PANArchitecture(Architecture[PAN]):
    """PAN as spandrel knows architectures: told by its keys, its shape and scale read from them."""

    def __init__(self) -> None:
        super().__init__(id="PAN", detect=is_pan)

    def load(self, state_dict: Mapping[str, Tensor]) -> ImageModelDescriptor[PAN]:
        """Build the network of a state dict and load it.

        Raises:
            WeightsError: The state dict is not that of a PAN.
        """
        config = config_of(state_dict)
        return ImageModelDescriptor(
            PAN(config),
            dict(state_dict),
            architecture=self,
            purpose="SR",
            tags=[f"{config.channels}nf", f"{config.blocks}nb"],
            # fp16 overflows to black pictures on noise; bfloat16 has the range of float32.
            supports_half=False,
            supports_bfloat16=True,
            scale=config.scale,
            input_channels=3,
            output_channels=3,
        )


def install(registry: ArchRegistry = MAIN_REGISTRY) -> None:
    """Register PAN, in spandrel's main registry unless another is given; twice does no harm."""
    architecture = PANArchitecture()
    if architecture.id not in registry:
        registry.add(ArchSupport.from_architecture(architecture))
