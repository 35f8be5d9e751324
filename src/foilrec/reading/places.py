"""Files and folders that must be there, with a hint when they are not."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from foilrec.errors import BadData, BadOption, did_you_mean, some


def existing_file(path: str | Path) -> Path:
    """The file, or BadData that names the nearest neighbour in its folder."""
    path = Path(path)
    if path.is_dir():
        raise BadData(f"{path} is a folder, and a file is needed: name the file inside it.")
    if path.exists() and not path.is_file():
        raise BadData(f"{path} is neither a file nor a folder (a device or a pipe): write it to a file first.")
    if not path.is_file():
        raise _absent(path, "file")
    return path


def existing_folder(path: str | Path) -> Path:
    """The folder, or BadData that names the nearest neighbour."""
    path = Path(path)
    if path.is_file():
        raise BadData(f"{path} is a file, and a folder is needed: name the folder that holds it, {path.parent}.")
    if not path.is_dir():
        raise _absent(path, "folder")
    return path


def _absent(path: Path, kind: str) -> BadData:
    place = path.parent
    if not place.is_dir():
        return BadData(
            f"{path}: there is no such {kind}, and its folder {place} does not exist either. Check the path."
        )
    around = sorted(p.name for p in place.iterdir() if not p.name.startswith("."))
    return BadData(
        f"{path}: there is no such {kind}{did_you_mean(path.name, around) or '.'} "
        f"Its folder holds {some(around, 8) or 'nothing'}."
    )


def the_one(folder: Path, suffix: str, name: str | None, cure: str) -> Path:
    """The file NAME.suffix of a folder; without a name, NAME is the folder's, or the only file with that ending."""
    if name is not None:
        return existing_file(folder / (name if name.endswith(suffix) else f"{name}{suffix}"))
    if (folder / f"{folder.name}{suffix}").is_file():
        return folder / f"{folder.name}{suffix}"
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        listed = some([p.name for p in found or sorted(folder.iterdir())], 8) or "nothing"
        what = f"several files end in {suffix}" if found else f"no file ends in {suffix}"
        raise BadData(f"{folder}: {what} (it holds {listed}). {cure}")
    return found[0]


def chosen_files(folder: Path, chosen: Mapping[str, str | Path]) -> dict[str, Path]:
    """The files that an option names for each modality; a relative path starts at the folder."""
    return {modality: existing_file(folder / path) for modality, path in chosen.items()}


def one_of(option: str, value: object, allowed: Sequence[object]) -> None:
    """Raises BadOption unless the value of an option is among those allowed."""
    if value not in allowed:
        raise BadOption(
            f"{option} cannot be {value!r}{did_you_mean(str(value), map(str, allowed)) or '.'} "
            f"It is one of {', '.join(map(repr, allowed))}."
        )
