"""What can be measured: networks of the installed lowvis packages, and the user's own.

A candidate is named in one word:

- ``rfdn-x4`` or ``rfdn-x4@own|official|FILE``: a network of an installed lowvis package;
- ``my_network:Network`` or ``networks/mine.py:make@best.pth``: a class or function of an importable
  module or of a Python file, called without arguments, and a checkpoint for what it returns.
"""

import re
import sys
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from lowvis_shared.checkpoint import load_state_dict_strict, load_weights_file
from lowvis_shared.errors import DeviceError, InputError, LowvisError, UsageError
from lowvis_shared.plugins import ModelEntry, discover, load_package

# The factory is a name, so that a colon of a drive or of a folder is none of its own.
_OWN = re.compile(r"(?P<place>.+?):(?P<factory>[A-Za-z_][\w.]*)(?:@(?P<file>.+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network to be measured, not built yet.

    Attributes:
        name: How it was named.
        title: How tables call it.
        scale: Upscaling factor.
        weights: Name or path of its weights; empty for random ones.
        make: Builds it and loads its weights, in evaluation mode, for pictures in 0..1. May raise
            anything that the user's own code raises.
        receptive_radius: Input pixels on each side that an output pixel depends on; None where that
            is not known or the whole picture.
        own: Whether it is the user's, and may hold weights that its factory loaded.
    """

    name: str
    title: str
    scale: int
    weights: str
    make: Callable[[], nn.Module]
    receptive_radius: int | None
    own: bool = False

    @property
    def trained(self) -> bool:
        """Whether its pictures may mean something: it has weights, or is the user's."""
        return self.own or bool(self.weights)

    def open(self) -> nn.Module:
        """Build it for use.

        Raises:
            UsageError: It has no weights.
            InputError: The user's code raises something.
            WeightsError: Its weights are missing, damaged or of another network.
        """
        if not self.trained:
            raise UsageError(
                f"no weights of {self.name} are at hand", hint=f"{self.name}@FILE gives it yours"
            )
        with foreign_code(self.name):
            return self.make()


class FullRange(nn.Module):
    """A network of pictures in 0..255 as one of pictures in 0..1: (B, 3, H, W) -> (B, 3, ...)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(255 * image) / 255


def find_candidate(
    text: str,
    *,
    scale: int = 4,
    white: float = 1.0,
    weights: bool = True,
    accept_licence: bool = False,
    offline: bool = False,
    first: str = "",
    task: str | None = "super-resolution",
) -> Candidate:
    """Find what a word such as ``rfdn-x4``, ``pan-x4@official`` or ``mine.py:Net@best.pth`` names.

    Args:
        text: The word.
        scale: Upscaling factor of the user's own networks; others know theirs.
        white: What white is in their pictures, 1 or 255; others know theirs.
        weights: Whether to load trained weights where none are named: the authors' where there are
            such, else our own. Costs and run time do not depend on them.
        accept_licence: Fetch weights although their authors state no licence.
        offline: Never use the network.
        first: Word of the package whose network it is where several have one of that name.
        task: What the networks of packages do; None for any task. The user's own may do anything.

    Raises:
        UsageError: Nothing has that name, or white is something else.
    """
    if white not in (1.0, 255.0):
        raise UsageError(f"white is 1 or 255 in the pictures of a network, not {white:g}")
    name, _, file = text.partition("@")
    entries = installed_networks(task=task, first=first)
    if name not in entries:
        return _own_candidate(text, entries, scale=scale, white=white)
    entry = entries[name]
    chosen = file or (_best_weights(entry) if weights else "")

    def make() -> nn.Module:
        if chosen:
            return entry.load(chosen, accept_licence=accept_licence, offline=offline)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return entry.build().eval()

    return Candidate(
        name=text,
        title=f"{name} @{Path(file).name}" if file else name,
        scale=entry.scale,
        weights=chosen,
        make=make,
        receptive_radius=entry.receptive_radius if entry.tiling == "local" else None,
    )


def all_names(
    scale: int = 4, *, task: str | None = "super-resolution", first: str = ""
) -> list[str]:
    """Return the names of all networks of one scale in the installed packages.

    Arguments and order are those of `installed_networks`.
    """
    entries = installed_networks(task=task, first=first)
    return [entry.name for entry in entries.values() if entry.scale == scale]


def installed_networks(
    *, task: str | None = "super-resolution", first: str = ""
) -> Mapping[str, ModelEntry]:
    """Return the networks of the installed packages by name, imported but not built.

    Args:
        task: What they do; None for networks of any task.
        first: Word of the package whose networks come first, and keep a name that others have
            too; all others follow in the order of their words.
    """
    found: dict[str, ModelEntry] = {}
    for word in sorted(discover(), key=lambda word: word != first):
        for entry in load_package(word).models:
            if task in (None, entry.task):
                found.setdefault(entry.name, entry)
    return found


def _best_weights(entry: ModelEntry) -> str:
    return next((name for name in ("official", "own") if name in entry.weights), "")


def _own_candidate(
    text: str, known: Mapping[str, ModelEntry], *, scale: int, white: float
) -> Candidate:
    match = _OWN.fullmatch(text)
    if match is None:
        raise UsageError(
            f"there is no network '{text}'",
            hint=f"one of {', '.join(known)}; or your own as module:factory or file.py:factory",
        )
    place, factory, file = match["place"], match["factory"], match["file"] or ""

    def make() -> nn.Module:
        dtype = torch.get_default_dtype()
        try:
            # No weights or weights that the factory loads itself: the seed makes runs repeatable.
            with _module(place) as module, torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = _attribute(module, factory)()
        finally:
            torch.set_default_dtype(dtype)  # it may have set its own, for all that come later
        if not isinstance(network, nn.Module):
            raise InputError(f"{factory} returns no torch.nn.Module but a {type(network).__name__}")
        if file:
            state_dict, _ = load_weights_file(file)
            load_state_dict_strict(network, state_dict, source=file)
        return (network if white == 1.0 else FullRange(network)).eval()

    return Candidate(
        name=text,
        title=text,
        scale=scale,
        weights=file,
        make=make,
        receptive_radius=None,
        own=True,
    )


@contextmanager
def _module(place: str) -> Generator[ModuleType]:
    """Import a module or a file; what the block imports is looked for beside it first."""
    path = Path(place)
    if path.suffix != ".py":
        with _importable(Path.cwd()):
            yield import_module(place)
        return
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    spec = spec_from_file_location(f"lowvis_candidate_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported")
    module = module_from_spec(spec)
    before = set(sys.modules)
    sys.modules[spec.name] = module  # dataclasses in the file look their module up
    folder = path.parent.resolve()
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # stays, for what the network imports when it runs
    with _importable(folder):  # the file's neighbors, as `python file.py` has it
        try:
            spec.loader.exec_module(module)
            yield module
        finally:
            _forget(set(sys.modules) - before, folder)


def _forget(names: Collection[str], folder: Path) -> None:
    """Drop a file's neighbors: another candidate may have some of the same names elsewhere.

    Libraries installed below the folder stay, as there is one of each in a process.
    """
    for name in names:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or {"site-packages", "dist-packages"} & set(Path(file).parts):
            continue
        if folder in Path(file).resolve().parents:
            del sys.modules[name]


@contextmanager
def _importable(folder: Path) -> Generator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _attribute(module: ModuleType, path: str) -> Callable[[], object]:
    value: object = module
    for part in path.split("."):
        value = getattr(value, part)
    if not callable(value):
        raise InputError(f"{module.__name__}:{path} is no class or function")
    return value


def reason(error: BaseException) -> str:
    """Say in one line why a candidate failed: for errors of ours and of anyone's code."""
    text = " ".join(str(error).split())
    if isinstance(error, LowvisError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


FOREIGN_ERRORS = (Exception, SystemExit)
"""What the user's code may raise: anything, and the end of the process, as argparse does."""


@contextmanager
def foreign_code(name: str) -> Generator[None]:
    """Turn what the user's code raises into an `InputError` that names the network.

    Errors of ours pass; the lack of memory becomes a `DeviceError`.
    """
    try:
        yield
    except LowvisError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DeviceError(
            f"{name}: out of memory: {reason(error)}",
            hint="take a smaller picture, or another --device",
        ) from error
    except FOREIGN_ERRORS as error:
        raise InputError(f"{name}: {reason(error)}") from error
