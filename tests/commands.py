"""What tests of the command line share: a tiny recipe, and what a command says."""

from collections.abc import Callable
from typing import NamedTuple


class Said(NamedTuple):
    """The exit code, and what stood on the two outputs."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


def tiny(epochs: int) -> str:
    """BPR-MF on a shop of 60 users and 60 items, as TOML."""
    return f"""
threads = 1
[data]
name = "shop"
users = 60
items = 60
[backbone]
name = "bprmf"
dim = 8
[optimizer]
name = "adam"
lr = 0.02
[train]
batch = 128
epochs = {epochs}
"""
