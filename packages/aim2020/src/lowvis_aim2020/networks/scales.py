"""The upscaling factors of this family of networks."""

from lowvis_shared.errors import UsageError

SCALES = (2, 3, 4)


def check_scale(network: str, scale: int) -> None:
    """Refuse a scale that a network of this family does not know; raises `UsageError`."""
    if scale not in SCALES:
        raise UsageError(f"scale is {scale}; {network} knows 2, 3 and 4")
