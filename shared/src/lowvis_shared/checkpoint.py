"""Training state that survives a kill at any moment, and weights that load strictly and safely."""

import hashlib
import io
import logging
import pickle
import random
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lowvis_shared.errors import UsageError, WeightsError
from lowvis_shared.files import atomic_write

logger = logging.getLogger("lowvis")

# What torch.load is seen to raise on damaged files: its own parser and unpickler check little.
_LOAD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
_SUM_DIGITS = 16
_CHECKPOINT_NAME = re.compile(rf"step-(\d{{10}})-([0-9a-f]{{{_SUM_DIGITS}}})\.pt")


# --- training state -------------------------------------------------------------------------------


class CheckpointFolder:
    """A folder of numbered training states, of which the newest valid one is always found.

    A checkpoint is written under a temporary name, flushed to the disk and renamed, and its name
    carries the first 16 digits of its own sha256: ``step-0000001000-5ff6aa9e7b6b1ef3.pt``. So one
    rename publishes file and checksum together, and no kill can come between them. A file is a
    plain ``torch.save`` archive. One process at a time may write into a folder.

    Args:
        path: The folder; made by the first `save`.
        keep: How many checkpoints stay; at least 1.

    Raises:
        UsageError: ``keep`` is below 1.
    """

    def __init__(self, path: Path | str, keep: int = 2) -> None:
        if keep < 1:
            raise UsageError(f"at least one checkpoint must be kept, not {keep}")
        self.path = Path(path)
        self.keep = keep
        self._readable = False

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state of a step and remove checkpoints older than the ``keep`` newest.

        Args:
            step: Number of training steps done.
            state: Tensors, numbers, strings, None, and lists, tuples and dicts of them: what
                ``torch.load(weights_only=True)`` reads back, and nothing else.

        Raises:
            TypeError: The state holds something else, which could be written but never read.
            OutputError: The disk is full or the folder not writable; older checkpoints stay.
        """
        if not 0 <= step < 10**10:
            raise UsageError(f"a checkpoint's step must lie in 0 .. 10**10 - 1, not {step}")
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        data = buffer.getbuffer()
        if not self._readable:  # the first state stands for the later ones, which hold the same
            _check_readable(buffer)
            self._readable = True
        checksum = hashlib.sha256(data).hexdigest()[:_SUM_DIGITS]
        path = self.path / f"step-{step:010d}-{checksum}.pt"

        def write(file: BinaryIO) -> None:
            file.write(data)

        atomic_write(path, write, overwrite=True)
        self._prune(step)
        return path

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Read the newest checkpoint that is whole, with its tensors on the CPU.

        Files that are damaged are skipped with a warning on the logger ``lowvis``.

        Returns:
            The step and the state, or None when the folder holds no valid checkpoint.

        Raises:
            WeightsError: The system refuses to read a file, so whether it is valid is unknown.
        """
        for step, path in self._files():
            try:
                data = path.read_bytes()
            except OSError as error:  # not damaged: starting over would waste what it holds
                raise WeightsError(f"cannot read {path}: {error.strerror}") from error
            checksum = hashlib.sha256(data).hexdigest()[:_SUM_DIGITS]
            if not path.stem.endswith(checksum):
                logger.warning("skipped the damaged checkpoint %s", path)
                continue
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return step, cast("dict[str, Any]", state)
        return None

    def _files(self) -> list[tuple[int, Path]]:
        """List step and path of every checkpoint, the newest first."""
        if not self.path.is_dir():
            return []
        found = [
            (int(match[1]), path.stat().st_mtime_ns, path)
            for path in self.path.iterdir()
            if (match := _CHECKPOINT_NAME.fullmatch(path.name))
        ]
        return [(step, path) for step, _, path in sorted(found, reverse=True)]

    def _prune(self, step: int) -> None:
        # A file of a later step is one that `latest` could not read before this run resumed at an
        # earlier one. It must not count as one of those kept, or it would push out a valid one.
        past = [path for file_step, path in self._files() if file_step <= step]
        for path in past[self.keep :]:
            path.unlink(missing_ok=True)
        for path in self.path.glob(".lowvis-*.tmp"):  # what atomic_write left when it was killed
            path.unlink(missing_ok=True)


def _check_readable(buffer: io.BytesIO) -> None:
    buffer.seek(0)
    try:
        torch.load(buffer, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = _refused_global(error) or "an object"
        raise TypeError(
            f"a training state holds tensors, numbers, strings and containers only, not {culprit}"
        ) from None


def capture_random_state() -> dict[str, Any]:
    """Read the state of the random generators of Python, NumPy and torch (the CPU and every GPU).

    The result holds tensors, numbers and strings only, so that it can be part of a checkpoint.
    """
    version, internal, gauss = random.getstate()
    # The global NumPy generator is what libraries draw from.
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "python": {
            "version": version,
            "internal": torch.tensor(internal, dtype=torch.int64),
            "gauss": gauss,
        },
        "numpy": {
            "bit_generator": str(numpy_state["bit_generator"]),
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "position": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set every random generator back to what `capture_random_state` read.

    The GPU states are set when this machine has as many GPUs as the one they come from; otherwise
    they are left as they are, with a warning on the logger ``lowvis``.
    """
    python, numpy_state = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["internal"].tolist()), python["gauss"]))
    np.random.set_state(  # noqa: NPY002 - see capture_random_state
        {
            "bit_generator": numpy_state["bit_generator"],
            "state": {
                "key": numpy_state["key"].numpy().astype(np.uint32),
                "pos": numpy_state["position"],
            },
            "has_gauss": numpy_state["has_gauss"],
            "gauss": numpy_state["gauss"],
        }
    )
    torch.set_rng_state(state["torch"])
    gpu_count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu_count == len(state["cuda"]):
        if gpu_count:
            torch.cuda.set_rng_state_all(state["cuda"])
    else:
        logger.warning(
            "the random state of %d GPUs cannot be restored on %d; this run goes on with another",
            len(state["cuda"]),
            gpu_count,
        )


# --- weights --------------------------------------------------------------------------------------

_WRAPPERS = ("params_ema", "params", "state_dict", "model")
_REFETCH = "the file is damaged or not weights at all: fetch it again"


def load_weights_file(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a state dict from a ``.safetensors`` file or one written by ``torch.save``.

    The kind is told by content, not by name. Nothing but tensors is ever unpickled. A state dict
    wrapped in ``params_ema``, ``params``, ``state_dict`` or ``model`` is unwrapped, and the prefix
    ``module.`` of data-parallel training is removed.

    Returns:
        The tensors, on the CPU, and the metadata of a safetensors file (else an empty dict).

    Raises:
        WeightsError: The file is missing, truncated, an HTML page, holds code, or is otherwise not
            a state dict.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise WeightsError(f"cannot read weights from {path}: {error.strerror}") from error
    if not head:
        raise WeightsError(f"{path} is empty", hint=_REFETCH)
    if head.lstrip()[:1] == b"<":
        raise WeightsError(
            f"{path} is a web page, not weights",
            hint="the download link led to a page: fetch the file behind it",
        )
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not weights", hint="run: git lfs pull")
    if head[8:9] == b"{":  # safetensors: 8 bytes of header length, then JSON
        return _load_safetensors(path)
    return _as_state_dict(_load_pickle(path), path), {}


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = cast("dict[str, str] | None", file.metadata())
        return safetensors.torch.load_file(path), metadata or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file", hint=_REFETCH) from error


def _load_pickle(path: Path) -> object:
    try:
        # torch warns of unusual pickle protocols, which are harmless here or end in an error below
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message goes on to explain how to run the code in the file: it is cut off.
        if culprit := _refused_global(error):
            raise WeightsError(
                f"{path} was refused as damaged or unsafe: it names program code ({culprit})",
                hint="fetch it again, or ask its authors for a plain state dict or a .safetensors",
            ) from None
        raise WeightsError(f"{path} is not a file of weights", hint=_REFETCH) from None
    except _LOAD_ERRORS as error:
        raise WeightsError(f"{path} is not a whole file of weights", hint=_REFETCH) from error


def _refused_global(error: pickle.UnpicklingError) -> str | None:
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    return match[1] if match else None


def _as_state_dict(content: object, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        mapping = cast("Mapping[object, object]", content)
        inner = next((mapping[name] for name in _WRAPPERS if name in mapping), None)
        if not isinstance(inner, Mapping):
            break
        content = cast("object", inner)
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no state dict but a {type(content).__name__}")
    state_dict: dict[str, Tensor] = {}
    for name, value in cast("Mapping[object, object]", content).items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path} holds no state dict: its entry {name!r} is a {type(value).__name__}"
            )
        state_dict[name] = value.detach()
    if all(name.startswith("module.") for name in state_dict):
        state_dict = {name.removeprefix("module."): value for name, value in state_dict.items()}
    return state_dict


def save_weights_file(
    path: Path,
    state_dict: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    overwrite: bool = False,
) -> None:
    """Write weights as safetensors with what is to be known of them.

    Raises:
        OutputError: The file exists and ``overwrite`` is False, or it cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    content = safetensors.torch.save(tensors, metadata=dict(metadata))

    def write(file: BinaryIO) -> None:
        file.write(content)

    atomic_write(path, write, overwrite=overwrite)


def load_state_dict_strict(
    model: nn.Module, state_dict: Mapping[str, Tensor], *, source: str, hint: str | None = None
) -> None:
    """Load a state dict that must fit exactly; the model is untouched when it does not.

    Args:
        model: The network to load into.
        state_dict: Tensors by the network's own keys.
        source: What the message calls the weights: a path or a name.
        hint: What to tell the user when they do not fit, such as "this looks like PAN x2".

    Raises:
        WeightsError: Keys are missing or unexpected or shapes differ (a table of them follows), or
            a tensor holds NaN or Inf (which is named).
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state_dict]
    unexpected = [name for name in state_dict if name not in own]
    misshapen = [
        f"{name}: file {tuple(state_dict[name].shape)}, network {tuple(own[name].shape)}"
        for name in own
        if name in state_dict and state_dict[name].shape != own[name].shape
    ]
    if missing or unexpected or misshapen:
        raise WeightsError(
            f"{source} does not fit {type(model).__name__}: {len(missing)} tensors missing, "
            f"{len(unexpected)} unexpected, {len(misshapen)} of another shape"
            + _table("missing", missing)
            + _table("unexpected", unexpected)
            + _table("shape", misshapen),
            hint=hint,
        )
    for name, tensor in state_dict.items():
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{source} holds NaN or Inf in the tensor {name}", hint=_REFETCH)
    model.load_state_dict(dict(state_dict), strict=True)


def _table(title: str, lines: Sequence[str], *, limit: int = 5) -> str:
    shown = [f"\n  {title:<10}  {line}" for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"\n  {title:<10}  ... and {len(lines) - limit} more")
    return "".join(shown)
