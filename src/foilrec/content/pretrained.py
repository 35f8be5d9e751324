"""Models of the library transformers, by name or folder: loaded quietly and whole, no code and no pickle of theirs."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from foilrec.errors import BadOption, MissingExtra


@contextmanager
def quiet(who: str, extra: str) -> Iterator[Any]:
    """The library transformers without its bars and remarks; MissingExtra, beginning with `who`, if it is not there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers
    except ImportError as error:
        raise MissingExtra("transformers", extra, who) from error
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield transformers
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def loaded(transformers: Any, kind: str, source: str, **options: Any) -> Any:
    """What a class of transformers, such as AutoModel, makes of a name or folder; BadOption if nothing."""
    try:
        return getattr(transformers, kind).from_pretrained(source, **options)
    except Exception as error:  # the library raises whatever its parts do for a folder that is no model
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise BadOption(
            f"The model {source} cannot be loaded ({kind}): {reason.rstrip('.')}. It must be the folder of a model "
            "with safetensors, or the name OWNER/MODEL of one that can be fetched."
        ) from error


def network(transformers: Any, source: str, device: str) -> tuple[Any, bool]:
    """A model in float32, ready to be asked, and whether its pooler has weights of its own.

    BadOption if the file lacks other weights: they would be random.
    """
    model, told = loaded(transformers, "AutoModel", source, use_safetensors=True, output_loading_info=True)
    missing = sorted(map(str, told["missing_keys"]))
    random = [name for name in missing if "pooler" not in name]
    if random:
        raise BadOption(f"The model {source} is not whole: it lacks the weights {random[0]} ({len(random)} in all).")
    return placed(model.float().eval(), device), not missing


def placed(model: torch.nn.Module, device: str) -> torch.nn.Module:
    """The model on a device, such as cpu or cuda; BadOption if there is none."""
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise BadOption(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def weights(model: torch.nn.Module, *told: object) -> str:
    """A digest of the weights and of what else decides the rows."""
    digest = blake2b(repr(told).encode(), digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def settings(transformers: Any, source: str, file: str) -> Any:
    """A JSON file of a model, {} if it has none."""
    path = transformers.utils.cached_file(
        source, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if path is None:
        return {}
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadOption(f"The model {source} cannot be loaded: {file} is damaged ({error}).") from error
