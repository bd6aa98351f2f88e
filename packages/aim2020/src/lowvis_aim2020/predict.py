"""Picture in, picture out: the only place with pre- and post-processing around the networks."""

import torch
from lowvis_shared.candidates import FOREIGN_ERRORS, foreign_code
from lowvis_shared.device import available_memory, choose_device, exact_float32
from lowvis_shared.errors import DeviceError, InputError
from lowvis_shared.images import Picture, to_array, to_tensor
from lowvis_shared.resize import imresize
from lowvis_shared.tiling import run_tiled
from torch import Tensor

from lowvis_aim2020.candidates import find_candidate
from lowvis_aim2020.ranking import measure

_LARGEST_TILE = 256
"""Side of a tile: with the widest network here, about 1 GiB."""


class Upscaler:
    """Upscales pictures with any network of this package or of the user.

    Networks that look at the whole picture run on it as a whole, all others in tiles that equal it.

    Args:
        model: As `find_candidate` takes it, such as ``folded-x4`` or ``imdn-x2@official``.
        device: Name of the device, as ``choose_device`` takes it.
        scale: Upscaling factor of the user's own networks; others know theirs.
        white: What white is in the user's own networks: 1 or 255.
        accept_licence: Fetch weights although their authors state no licence.
        offline: Never use the network.

    Raises:
        UsageError: Nothing has that name, or it has no weights.
        InputError: The user's code raises something.
        WeightsError: The weights are missing, damaged or of another network.
        DeviceError: There is no such device.
    """

    def __init__(
        self,
        model: str = "folded-x4",
        *,
        device: str = "auto",
        scale: int = 4,
        white: float = 1.0,
        accept_licence: bool = False,
        offline: bool = False,
    ) -> None:
        self.device = choose_device(device)
        self._candidate = find_candidate(
            model, scale=scale, white=white, accept_licence=accept_licence, offline=offline
        )
        self.scale = self._candidate.scale
        self.network = self._candidate.open().to(self.device)
        self._dtype = next(self.network.parameters(), torch.zeros(())).dtype

    @torch.inference_mode()
    def __call__(self, picture: Picture) -> Picture:
        """Return the picture upscaled, of the same depth, with alpha and metadata.

        Alpha is upscaled bicubically.

        Raises:
            InputError: The network fails, or gives another size or values that are not finite.
            DeviceError: The picture is needed whole and does not fit into memory.
        """
        radius = self._candidate.receptive_radius
        if radius is None:
            self._refuse_too_large(picture)

        def run(image: Tensor) -> Tensor:
            with exact_float32():
                output = self.network(image.to(self.device, self._dtype))
            if not bool(output.isfinite().all()):
                raise InputError(f"{self._candidate.name} gives values that are not finite")
            return output

        with foreign_code(self._candidate.name):
            output = run_tiled(
                run,
                to_tensor(picture),
                scale=self.scale,
                tile=0 if radius is None else max(_LARGEST_TILE, 2 * radius),
                halo=radius or 0,
                divisible=radius is not None,
            )
        alpha = picture.alpha_to_float()
        if alpha is not None:
            alpha = imresize(alpha, scale=self.scale).clip(0, 1)
        return picture.with_pixels(to_array(output).clip(0, 1), alpha)

    def _refuse_too_large(self, picture: Picture) -> None:
        """Say what a picture would take before the system ends the process for it."""
        size = (picture.height, picture.width)
        try:
            needed = measure(self.network, size).peak_memory
        except FOREIGN_ERRORS:  # what cannot be counted is tried
            return
        available = available_memory() if self.device.type == "cpu" else None
        if available is not None and needed > available:
            raise DeviceError(
                f"{self._candidate.name} needs a picture of {size[1]}x{size[0]} whole, which takes "
                f"{needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are free",
                hint="take a smaller picture, or a network that runs in tiles, such as folded-x4",
            )
