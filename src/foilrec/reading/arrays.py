"""NumPy files: opened without pickle, memory-mapped where they can be, refused where they are damaged."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foilrec.errors import BadData
from foilrec.reading.places import existing_file

Array = NDArray[Any]


def open_arrays(path: str | Path) -> dict[str, Array]:
    """Every array of an npz, or the one of an npy under the name "" (memory-mapped)."""
    file = existing_file(path)
    if not file.stat().st_size:
        raise BadData(f"{file} is empty (0 bytes). Fetch it again.")
    try:
        with file.open("rb") as opened:
            if opened.read(2) == b"PK":
                opened.seek(0)
                with np.load(opened, allow_pickle=False) as packed:
                    return {name: packed[name] for name in packed.files}
        return {"": np.load(file, mmap_mode="r", allow_pickle=False)}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        raise BadData(f"{file} {_complaint(str(error))}") from error


def _complaint(reason: str) -> str:
    if "Object arrays" in reason or "Python objects" in reason:
        return (
            "holds an object array, which only pickle can open, and pickle runs whatever code the file holds: save "
            "it as float32 instead."
        )
    if "allow_pickle" in reason:
        return "is not a NumPy file: its first bytes are not those of an .npy or .npz. Save it with numpy.save."
    return f"is cut short or damaged ({reason.splitlines()[0]}). Fetch or write it again."


def matrix(path: str | Path, key: str | None = None) -> Array:
    """The float matrix [I, F] of a feature file: npy, or an npz that holds one matrix or one under `key`."""
    arrays = open_arrays(path)
    names = [name for name in arrays if key in (None, name)]
    if len(arrays) > 1 and len(names) > 1:
        names = [name for name in names if name in ("feat", "features")]
    if len(names) != 1:
        raise BadData(
            f"{path} holds the arrays {', '.join(map(repr, arrays))}, and the features must be its only array, "
            "or be called 'feat'."
        )
    found = arrays[names[0]]
    if found.ndim != 2:
        raise BadData(
            f"{path}: features must be a matrix with a row for each item, and this array is {found.ndim}-d, of "
            f"shape {found.shape}."
        )
    if not found.dtype.isnative:  # big-endian files, say
        found = found.astype(found.dtype.newbyteorder("="))
    if found.dtype not in (np.float16, np.float32, np.float64):
        raise BadData(
            f"{path}: features must be float16, float32 or float64, and these are {found.dtype}. Save them "
            "with .astype(numpy.float32)."
        )
    return found


def npz_header(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """The shape and dtype of each array of an npz, without unpacking any."""
    try:
        with zipfile.ZipFile(existing_file(path)) as archive:
            return {name.removesuffix(".npy"): _header(archive, name) for name in archive.namelist()}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise BadData(f"{path} {_complaint(str(error))}") from error


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return shape, dtype
