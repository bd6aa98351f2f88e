"""Find the installed lowvis packages by their word, without importing any until it is asked for.

A package announces itself with the entry point ``<word> = "lowvis_<word>:PACKAGE"`` in the group
``lowvis.packages``. One package that wants another (to rank it, to score it) goes through
`load_package`, so neither depends on the other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

from lowvis_shared.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

GROUP = "lowvis.packages"


class Load(Protocol):
    """Makes a network with weights; see `ModelEntry`."""

    def __call__(
        self, weights: str, *, accept_licence: bool = False, offline: bool = False
    ) -> "nn.Module": ...


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One network of a package: how to build it, load it and run it on a large picture.

    Attributes:
        name: Name within all of lowvis, such as ``"pan-x4"``.
        scale: Output size divided by input size; 1 where the size stays.
        build: Makes the network with random weights, in training mode.
        load: Makes the network with the weights named (one of `weights`) or read from a path,
            in evaluation mode. ``accept_licence`` consents to fetching files whose authors state
            no licence, ``offline`` forbids the network. Raises `WeightsError`.
        receptive_radius: How far, in input pixels, an output pixel looks. Ignored where `tiling`
            is ``"global"``.
        tiling: ``"local"`` when tiles whose halo is `receptive_radius` equal the whole picture;
            ``"global"`` when the network gathers statistics over the whole picture.
        task: What it does, in the field's words, such as ``"super-resolution"``.
        weights: Names that `load` understands; ``"own"`` are those shipped in the wheel.
    """

    name: str
    scale: int
    build: Callable[[], "nn.Module"]
    load: Load
    receptive_radius: int
    tiling: Literal["local", "global"]
    task: str
    weights: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PackageInfo:
    """What a package says about itself: its ``PACKAGE``.

    Attributes:
        word: The paper's word: package ``lowvis-<word>``, import ``lowvis_<word>``.
        title: The paper's title.
        paper: The paper's citation: authors, venue, year.
        url: Where the paper can be read.
        verb: The main command of ``lowvis-<word>``, such as ``"upscale"``.
        models: Its networks.
        paper_toml: What the paper claims, row by row (see `lowvis_shared.reproduce`).
        trains: Whether the package has a ``train`` command.
    """

    word: str
    title: str
    paper: str
    url: str
    verb: str
    models: tuple[ModelEntry, ...]
    paper_toml: Traversable
    trains: bool = True

    def model(self, name: str) -> ModelEntry:
        """The network of that name; raises `UsageError` with the names that exist."""
        for entry in self.models:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in self.models)
        raise UsageError(f"lowvis-{self.word} has no model '{name}'", hint=f"it has: {names}")


def discover() -> Mapping[str, EntryPoint]:
    """The installed packages by word, in alphabetical order. Imports none of them."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    return MappingProxyType(dict(sorted(found.items())))


def load_package(word: str) -> PackageInfo:
    """Import the package of that word and return what it says about itself.

    Raises:
        UsageError: The package is not installed, or what its entry point names is no
            `PackageInfo` of that word.
    """
    point = discover().get(word)
    if point is None:
        raise UsageError(f"lowvis-{word} is not installed", hint=f"pip install lowvis-{word}")
    package: object = point.load()
    if not isinstance(package, PackageInfo) or package.word != word:
        raise UsageError(f"the entry point '{word} = {point.value}' names no PackageInfo of {word}")
    return package
