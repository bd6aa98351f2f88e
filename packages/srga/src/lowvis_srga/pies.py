"""Patch sets as folders of pictures: written with a manifest, and read from here or elsewhere."""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lowvis_shared.errors import InputError, OutputError, UsageError
from lowvis_shared.files import check_output, read_bytes
from lowvis_shared.images import IMAGE_SUFFIXES
from PIL import Image

from lowvis_srga.degrade import NOISE_SEED, parse_degradation
from lowvis_srga.patches import (
    Family,
    PatchSet,
    Pixels,
    Source,
    pixels_sha256,
    read_pixels,
    source_names,
)

_MANIFEST = "manifest.json"
_FORMAT = "lowvis-srga patch sets"
_SCHEMA = 1
_HIGH = "HR"
_LOW = "LR"
_PREFIX = "PIES-"
_FAMILIES: tuple[Family, ...] = ("clean", "blur", "noise", "jpeg", "mixture", "real", "other")
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")


def describe_sources(sources: Sequence[Source], *, seed: int) -> dict[str, Any]:
    """Return what the manifest says about where patches come from, for `write_pies`.

    Raises:
        InputError: A file cannot be read, or two pictures have the same name.
    """
    return {
        "seed": seed,
        "noise_seed": NOISE_SEED,
        "sources": [
            {"name": name, "pixels_sha256": pixels_sha256(source[1])}
            if isinstance(source, tuple)
            else {"name": name, "sha256": hashlib.sha256(read_bytes(source)).hexdigest()}
            for name, source in zip(source_names(sources), sources, strict=True)
        ],
    }


def write_pies(
    folder: Path, sets: Sequence[PatchSet], *, manifest: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Write sets as PNG files, all or nothing: ``NAME/0001.png``, ``HR/0001.png``, a manifest.

    Args:
        folder: What is created; missing folders above it are created too.
        sets: Sets of equally many patches of equal size. Those with high-resolution patches
            share them.
        manifest: What else the manifest is to say, such as `describe_sources` returns.
        overwrite: Replace an existing folder, if it holds such sets and nothing else.

    Raises:
        InputError: The sets do not fit together.
        OutputError: The folder exists, holds anything else, or cannot be written to.
        UsageError: A set has a name that is no name for a folder, or that another one has, or the
            manifest says something that is said from the sets.
    """
    check_target(folder, [each.name for each in sets], overwrite=overwrite)
    described = _describe(sets)
    if clash := sorted(described.keys() & manifest.keys()):
        raise UsageError(f"the manifest says {', '.join(clash)} from the sets themselves")
    final = Path(os.path.realpath(folder))
    # Beside the folder, so that the last step is a renaming.
    temporary = final.with_name(f".lowvis-{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir(parents=True)
        try:
            high = next((each.high for each in sets if each.high is not None), None)
            if high is not None:
                _write_pictures(temporary / _HIGH, high)
            for each in sets:
                _write_pictures(temporary / each.name, each.low)
            text = json.dumps({**described, **manifest}, indent=1, ensure_ascii=False)
            (temporary / _MANIFEST).write_text(text + "\n", encoding="utf-8")
            _rename(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def check_target(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Refuse what `write_pies` would refuse, before the sets are made.

    Args:
        folder: Where they will go.
        names: What they will be called.
        overwrite: Replace an existing folder, if it holds such sets and nothing else.

    Raises:
        OutputError: The folder exists, holds anything else, or cannot be written to.
        UsageError: A name is no name for a folder, or given twice.
    """
    for name in names:
        _require_folder_name(name)
    # On many file systems names that differ in case only are the same.
    if len({name.casefold() for name in names}) < len(names):
        raise UsageError(f"two sets have the same name: {', '.join(names)}")
    final = Path(os.path.realpath(folder))
    if os.path.lexists(final):
        _check_replaceable(folder, final, overwrite=overwrite)
    else:
        check_output(folder, overwrite=False)


def read_pies(folder: Path) -> list[PatchSet]:
    """Read the sets that `write_pies` wrote, or a folder of sets from elsewhere.

    A folder without a manifest holds one sub-folder for each set, with its pictures in it or in
    ``LR``; high-resolution ones, if any, are in its ``HR`` or in one ``HR`` beside all sets. The
    prefix ``PIES-`` of a name is left out, and files are taken in the order of their names, by
    which patches of different sets are the same scene.

    Returns:
        The sets in the order of the manifest, or by family and degree.

    Raises:
        InputError: A picture is missing, damaged, or not the one that was written; sets differ in
            number or size of patches; there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of patch sets")
    if (folder / _MANIFEST).exists():
        return _read_written(folder)
    return _read_found(folder)


def _file_names(count: int) -> list[str]:
    digits = max(4, len(str(count)))
    return [f"{number:0{digits}d}.png" for number in range(1, count + 1)]


def _describe(sets: Sequence[PatchSet]) -> dict[str, Any]:
    """Check that sets fit together and return what the manifest says about them."""
    if not sets:
        raise UsageError("no sets to write")
    first = sets[0]
    pairs = [(each, each.high) for each in sets if each.high is not None]
    for each in sets:
        if each.low.shape != first.low.shape:
            raise InputError(
                f"{each.name} holds patches of shape {each.low.shape}, but {first.name} "
                f"{first.low.shape}: all sets need equally many of equal size"
            )
    for each, high in pairs:
        if each.ids != pairs[0][0].ids or not np.array_equal(high, pairs[0][1]):
            raise InputError(f"{each.name} is not made from the same patches as {pairs[0][0].name}")
    _, height, width, _ = first.low.shape
    return {
        "format": _FORMAT,
        "schema": _SCHEMA,
        "count": len(first.low),
        "low_size": [height, width],
        "scale": pairs[0][0].scale if pairs else None,
        "high_sha256": pixels_sha256(pairs[0][1]) if pairs else None,
        "patches": list(pairs[0][0].ids) if pairs else [],
        "sets": [
            {
                "name": each.name,
                "family": each.family,
                "degree": each.degree,
                "steps": [] if each.family in ("real", "other") else _steps(each.name),
                "sha256": pixels_sha256(each.low),
                # Real pictures show scenes of their own.
                "patches": list(each.ids) if each.high is None else None,
            }
            for each in sets
        ],
    }


def _steps(name: str) -> list[str]:
    return list(parse_degradation(name).steps)


def _require_folder_name(name: str) -> None:
    if not _FOLDER_NAME.fullmatch(name) or name.upper() in (_HIGH, _LOW):
        raise UsageError(
            f"'{name}' cannot be the name of a set",
            hint=f"letters, digits and . + _ - after a letter or digit, and neither {_HIGH} "
            f"nor {_LOW}",
        )


def _check_replaceable(folder: Path, final: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is there, unless that is wanted and no work is lost by it."""
    if not overwrite:
        raise OutputError(
            f"{folder}: the output exists already",
            hint="choose another name, or pass --overwrite to replace it",
        )
    try:
        manifest = _load_manifest(final / _MANIFEST)
        folders = [_HIGH, *(str(each["name"]) for each in manifest["sets"])]
        names = _file_names(int(manifest["count"]))
    except (InputError, LookupError, TypeError, ValueError) as error:
        raise OutputError(
            f"{folder}: is no folder of patch sets, and is not replaced", hint="choose another name"
        ) from error
    known = {final / _MANIFEST, *(final / each / name for each in folders for name in names)}
    for path in final.rglob("*"):
        if not path.is_dir() and path not in known:
            raise OutputError(
                f"{folder}: {path.relative_to(final)} was not written with the patch sets, and "
                "would be lost",
                hint="move it elsewhere, or choose another name",
            )


def _write_pictures(folder: Path, patches: Pixels) -> None:
    # Without write_image: its flushing each of tens of thousands of files would take minutes, and
    # here the renaming of the whole folder is what makes the writing all or nothing.
    folder.mkdir()
    for name, patch in zip(_file_names(len(patches)), patches, strict=True):
        Image.fromarray(patch).save(folder / name)


def _rename(temporary: Path, final: Path) -> None:
    """Give a folder its final name; what had that name is deleted after that, not before."""
    if not final.exists():
        temporary.rename(final)
        return
    old = final.with_name(f".lowvis-{secrets.token_hex(8)}.tmp")
    final.rename(old)
    try:
        temporary.rename(final)
    except BaseException:
        old.rename(final)
        raise
    shutil.rmtree(old)


def _load_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(read_bytes(path))
    except ValueError as error:
        raise InputError(f"{path}: damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise InputError(
            f"{path}: not a manifest of patch sets",
            hint="without this file the folder is read as sets from elsewhere",
        )
    if manifest["schema"] != _SCHEMA:
        raise InputError(
            f"{path}: written in schema {manifest['schema']}, while this version reads {_SCHEMA}",
            hint="make the sets again, or use the version that wrote them",
        )
    return manifest


def _read_written(folder: Path) -> list[PatchSet]:
    path = folder / _MANIFEST
    try:
        manifest = _load_manifest(path)
        names = _file_names(int(manifest["count"]))
        scenes = tuple(str(each) for each in manifest["patches"])
        high = _read_checked(folder / _HIGH, names, manifest["high_sha256"]) if scenes else None
        sets: list[PatchSet] = []
        for each in manifest["sets"]:
            _require_folder_name(str(each["name"]))
            own = each["patches"]
            sets.append(
                PatchSet(
                    str(each["name"]),
                    _FAMILIES[_FAMILIES.index(each["family"])],
                    None if each["degree"] is None else float(each["degree"]),
                    _read_checked(folder / each["name"], names, each["sha256"]),
                    high if own is None else None,
                    scenes if own is None else tuple(str(scene) for scene in own),
                )
            )
    except (LookupError, TypeError, ValueError, UsageError) as error:
        raise InputError(f"{path}: damaged: {error}") from error
    return sets


def _read_checked(folder: Path, names: Sequence[str], expected: str) -> Pixels:
    patches = _stack([folder / name for name in names])
    if pixels_sha256(patches) != expected:
        raise InputError(
            f"{folder}: a picture has been changed since it was written",
            hint=f"make the sets again; without {_MANIFEST} the folder is read as it is",
        )
    return patches


def _read_found(folder: Path) -> list[PatchSet]:
    names = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._"
    )
    common = _pictures(folder / _HIGH) if _HIGH in names else []
    sets: list[PatchSet] = []
    for folder_name in names:
        if folder_name == _HIGH:
            continue
        inside = folder / folder_name
        files = _pictures(inside) or _pictures(inside / _LOW)
        if not files:
            raise InputError(
                f"{inside}: holds no pictures",
                hint=f"each sub-folder is one set, its pictures in it or in its {_LOW}",
            )
        low = _stack(files)
        high_files = _pictures(inside / _HIGH) or common
        if high_files and len(high_files) != len(files):
            raise InputError(
                f"{high_files[0].parent}: holds {len(high_files)} pictures, but {files[0].parent} "
                f"{len(files)}",
                hint="each patch needs its high-resolution picture, or none has one",
            )
        name = folder_name.removeprefix(_PREFIX)
        family, degree = _classify(name)
        ids = tuple(path.name for path in files)
        sets.append(
            PatchSet(name, family, degree, low, _stack(high_files) if high_files else None, ids)
        )
    for each in sets:
        if each.low.shape != sets[0].low.shape:
            raise InputError(
                f"{folder}: {each.name} holds {_extent(each)}, but {sets[0].name} "
                f"{_extent(sets[0])}",
                hint="all sets need equally many pictures of equal size",
            )
    if not sets:
        raise InputError(
            f"{folder}: holds no sets", hint="one sub-folder is one set, such as clean or blur2"
        )
    return sorted(sets, key=lambda s: (_FAMILIES.index(s.family), s.degree or 0, s.name))


def _extent(patches: PatchSet) -> str:
    count, height, width, _ = patches.low.shape
    return f"{count} pictures of {width} x {height} pixels"


def _classify(name: str) -> tuple[Family, float | None]:
    try:
        degradation = parse_degradation(name)
    except UsageError:
        return "other", None
    return degradation.family, degradation.degree


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def _stack(paths: Sequence[Path]) -> Pixels:
    """Read pictures of equal size as (n, h, w, 3)."""
    first = read_pixels(paths[0])
    patches = np.empty((len(paths), *first.shape), np.uint8)
    for index, path in enumerate(paths):
        picture = first if index == 0 else read_pixels(path)
        if picture.shape != first.shape:
            raise InputError(
                f"{path}: has {picture.shape[1]} x {picture.shape[0]} pixels, but {paths[0]} "
                f"{first.shape[1]} x {first.shape[0]}",
                hint="all pictures of a set need the same size",
            )
        patches[index] = picture
    return patches
