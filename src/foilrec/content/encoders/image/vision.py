"""Any picture model of the library transformers, by folder or name: ViT, DINOv2, CLIP, SigLIP, ConvNeXt and others."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foilrec.content import pretrained
from foilrec.content.encoder import Array
from foilrec.errors import BadOption

TOGETHER = 16


class Vision:
    """What a model makes of a picture, scaled to length 1.

    Of models of pictures and texts (CLIP, SigLIP) it is the picture's side of what they compare; else the pooled output
    if its weights were trained; else the mean of the last states over places. Pictures are prepared as the folder says,
    by pillow: torchvision is neither needed nor used. Weights are read from safetensors alone.

    model: a folder, or OWNER/MODEL, which the library fetches once. device: cpu, cuda, ...
    """

    name = "vision"

    def __init__(self, *, model: str, device: str = "cpu") -> None:
        with pretrained.quiet(f"The picture model {model}", "image,text") as transformers:
            self._prepare = pretrained.loaded(transformers, "AutoImageProcessor", model, backend="pil")
            self._network, pooled = pretrained.network(transformers, model, device)
        paired = hasattr(self._network, "get_image_features")
        self._ask = self._network.get_image_features if paired else self._network
        self._pooled, self._device = paired or pooled, device
        blank = self._rows([np.zeros((32, 32, 3), np.uint8)])
        if blank.ndim != 2:
            raise BadOption(
                f"The model {model} makes no vector of a picture: it makes rows of {list(blank.shape[1:])}."
            )
        self.dim = int(blank.shape[1])
        self.about = {"model": model, "pooling": "image features" if paired else "pooled" if pooled else "mean"}
        self.revision = pretrained.weights(self._network, self.about, self._prepare.to_json_string())

    def __call__(self, pictures: list[Array]) -> Array:
        """Float32 [n, dim], of length 1."""
        parts = [pictures[start : start + TOGETHER] for start in range(0, len(pictures), TOGETHER)]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *(self._rows(part).numpy() for part in parts)])

    @torch.no_grad()
    def _rows(self, pictures: list[Array]) -> Tensor:
        asked = self._prepare(images=pictures, return_tensors="pt").to(self._device)
        told: Any = self._ask(pixel_values=asked["pixel_values"])
        vectors = told if isinstance(told, Tensor) else getattr(told, "pooler_output", None) if self._pooled else None
        if vectors is None:
            states = told.last_hidden_state
            vectors = states.mean(1) if states.ndim == 3 else states.flatten(2).mean(2)
        return torch.nn.functional.normalize(vectors.flatten(1).float()).cpu()
