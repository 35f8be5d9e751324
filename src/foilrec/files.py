"""Files that are written whole or not at all, and trees of tensors in one safetensors file."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foilrec.errors import RunBroken

Tree = dict[str, Any]
LOCK = ".claimed"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not."""
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        draft = Path(name)
        yield draft
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.chmod(0o644)
        draft.replace(path)
    except Exception as error:
        if _is_full(error):
            raise RunBroken(
                f"The disk is full: {path} was not written, and what stood there still does. Free some "
                "space and run the same command with --resume."
            ) from error
        if isinstance(error, OSError):
            raise RunBroken(
                f"{path} cannot be written ({error.strerror or error}): choose another place, or look at "
                "its permissions."
            ) from error
        raise
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def _is_full(error: Exception) -> bool:
    """Whether the disk or a quota is full; libraries written in Rust say so in words only."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in numbers or any(f"(os error {number})" in str(error) for number in numbers)


def sweep(path: Path) -> None:
    """Removes what a process that was killed while it wrote `path` has left beside it."""
    for draft in path.parent.glob(f".{path.name}.*{path.suffix}"):
        draft.unlink(missing_ok=True)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Holds a folder for this block alone; RunBroken where another process, or another block of this one, has it.

    The claim falls with the process, however that ends, and folders that were made for it and stayed empty go again.
    File systems and systems without locks have no claims.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = _locked(folder) if made or folder.is_dir() else None
    try:
        yield
    finally:
        if lock is not None:
            (folder / LOCK).unlink(missing_ok=True)
            os.close(lock)
        for place in made:
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def _locked(folder: Path) -> int | None:
    try:
        import fcntl  # there is none on Windows
    except ImportError:
        return None
    path = folder / LOCK
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError:
            return None  # whoever writes there next will tell why not
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise RunBroken(
                f"Another process is training into {folder}: let it end, or choose another folder."
            ) from error
        except OSError:
            os.close(lock)
            return None
        if path.exists() and os.fstat(lock).st_ino == path.stat().st_ino:
            return lock
        os.close(lock)  # its last holder took the file away in between


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole."""
    with written_whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file whole."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def save_tree(path: Path, tree: Tree) -> None:
    """Writes nested dicts and lists of tensors and plain values: tensors as safetensors, the rest in its header."""
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    plain = _strip(tree, "", lambda name, tensor: tensors.__setitem__(name, tensor.detach().cpu().contiguous().clone()))
    with written_whole(path) as draft:
        save_file(tensors, draft, metadata={"tree": json.dumps(plain)})


def _strip(node: Any, name: str, keep: Callable[[str, Any], None]) -> Any:
    import torch

    if isinstance(node, torch.Tensor):
        keep(name, node)
        return {"$tensor": name}
    if isinstance(node, dict):
        return {"$items": [[key, _strip(value, f"{name}/{key}", keep)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return [_strip(value, f"{name}/{i}", keep) for i, value in enumerate(node)]
    return node


def load_tree(path: Path) -> Tree:
    """What save_tree wrote; RunBroken if the file is missing, truncated or of another kind."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads((file.metadata() or {})["tree"])
            tree: Tree = _fill(plain, file.get_tensor)
            return tree
    except FileNotFoundError as error:
        raise RunBroken(f"{path} is missing: this run folder was never finished or has been taken apart.") from error
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise RunBroken(
            f"{path} cannot be read ({error}): the file is truncated or damaged. Train again into a new "
            "folder, or put the file back from a copy."
        ) from error


def _fill(node: Any, get: Callable[[str], Any]) -> Any:
    if isinstance(node, dict) and "$tensor" in node:
        return get(node["$tensor"])
    if isinstance(node, dict):
        return {key: _fill(value, get) for key, value in node["$items"]}
    if isinstance(node, list):
        return [_fill(value, get) for value in node]
    return node
