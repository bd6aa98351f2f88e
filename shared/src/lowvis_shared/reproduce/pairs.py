"""Test sets for rows of a paper: what is absent is a lack, what is here and wrong is an error."""

from collections.abc import Mapping

from lowvis_shared.assets import assets_available, dataset_files, fetch
from lowvis_shared.errors import WeightsError
from lowvis_shared.files import sha256_file
from lowvis_shared.pairs import MissingSetError, Pair, load_pairs
from lowvis_shared.reproduce.results import Context, Unavailable


def find_pairs(dataset: str, scale: int, context: Context) -> list[Pair]:
    """Find the pictures of a test set, fetching them where the context allows it.

    Raises:
        Unavailable: The set is absent and may not or cannot be fetched.
        WeightsError: A picture is here and is not the published one.
    """
    try:
        return load_pairs(
            dataset,
            scale,
            data_dir=context.data_dir,
            accept_licence=context.accept_licence,
            offline=context.offline,
        )
    except MissingSetError as error:
        raise Unavailable(str(error)) from error
    except WeightsError as error:
        for asset in dataset_files(dataset):
            if assets_available([asset.name]):
                fetch(asset, offline=True)  # raises for a file that is here and wrong
        raise Unavailable(str(error)) from error


def pair_assets(dataset: str, scale: int, pairs: list[Pair]) -> Mapping[str, str]:
    """Return the SHA-256 of every file of some pairs by asset name."""
    assets: dict[str, str] = {}
    for pair in pairs:
        assets[f"{dataset}/HR/{pair.high.name}"] = sha256_file(pair.high)
        if pair.low is not None:
            assets[f"{dataset}/X{scale}/{pair.low.name}"] = sha256_file(pair.low)
    return assets
