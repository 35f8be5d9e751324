"""Texts as vectors by a language model: the states of a text's tokens, pooled and scaled to length 1."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from foilrec.content import pretrained
from foilrec.content.encoder import Array
from foilrec.errors import BadOption

TOGETHER = 32  # texts in one pass
MOST_TOKENS = 512  # where a model does not say how many it was made for
KNOWN = ("Transformer", "Pooling", "Normalize")  # modules of sentence-transformers that are followed


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1)


POOLINGS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "cls": lambda states, mask: states[:, 0],
    "max": lambda states, mask: states.masked_fill(mask == 0, -torch.inf).amax(1),
    "last": lambda states, mask: states[torch.arange(len(states)), mask[..., 0].sum(1).long() - 1],
}
"""From states [n, L, F] and a mask [n, L, 1] of 1 for tokens and 0 for padding (on the right) to [n, F]."""
_THEIRS = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "mean"}
_THEIRS |= {"lasttoken": "last"}  # as sentence-transformers calls them; a mean by root of length points the same way


class PooledText:
    """A model of the library transformers, asked for the states of its last layer.

    source: a folder, or a name OWNER/MODEL. pooling, max_tokens: None for what a folder of sentence-transformers says,
    else the mean, and what the model was made for. prompt: put before every text, as E5 and others want it. who: begins
    the sentence that tells what is missing.
    """

    name = "pooled"

    def __init__(
        self, source: str, *, pooling: str | None, max_tokens: int | None, prompt: str, device: str, who: str
    ) -> None:
        with pretrained.quiet(who, "text") as transformers:
            self._tokens = pretrained.loaded(transformers, "AutoTokenizer", source)
            model, _ = pretrained.network(transformers, source, device)
            theirs = _sentence_settings(transformers, source)
        self._model = model.get_encoder() if model.config.is_encoder_decoder else model
        self._pooling = pooling or theirs.get("pooling", "mean")
        made_for = min(self._tokens.model_max_length, MOST_TOKENS)
        self._most, self._prompt, self._device = max_tokens or theirs.get("max_tokens", made_for), prompt, device
        if not 1 < self._most <= self._tokens.model_max_length:
            raise BadOption(f"max_tokens = {self._most} must lie in 2 .. {self._tokens.model_max_length} for {source}.")
        if self._tokens.pad_token is None:
            self._tokens.pad_token = self._tokens.eos_token
        self._lock = threading.Lock()  # a tokenizer serves one thread at a time
        self._tokens.padding_side = self._tokens.truncation_side = "right"
        self.about = {"model": source, "pooling": self._pooling, "max_tokens": self._most, "prompt": prompt}
        self.dim = len(self._rows(["width"])[0])
        words = sorted(self._tokens.get_vocab().items())
        self.revision = pretrained.weights(self._model, self._pooling, self._most, prompt, words)

    def __call__(self, texts: list[str]) -> Array:
        """Float32 [n, dim], of length 1; zeros for a text without a letter."""
        made = torch.zeros(len(texts), self.dim)
        told = [n for n, text in enumerate(texts) if text.strip()]
        told.sort(key=lambda n: len(texts[n]))  # texts of like length need little padding
        for start in range(0, len(told), TOGETHER):
            chosen = told[start : start + TOGETHER]
            made[chosen] = self._rows([texts[n] for n in chosen])
        rows: Array = made.numpy()
        return rows

    @torch.no_grad()
    def _rows(self, texts: list[str]) -> Tensor:
        told = [self._prompt + text for text in texts]
        with self._lock:
            asked = self._tokens(told, padding=True, truncation=True, max_length=self._most, return_tensors="pt")
        asked = asked.to(self._device)
        states = self._model(**asked).last_hidden_state
        pooled = POOLINGS[self._pooling](states, asked["attention_mask"][..., None].float())
        return torch.nn.functional.normalize(pooled).cpu()


def _sentence_settings(transformers: Any, source: str) -> dict[str, Any]:
    """What a folder of sentence-transformers says of pooling and length; {} for any other."""
    modules = pretrained.settings(transformers, source, "modules.json")
    if not modules:
        return {}
    places = {str(module["type"]).rsplit(".", 1)[-1]: module["path"] for module in modules}
    others = [name for name in places if name not in KNOWN]
    if others:
        raise BadOption(
            f"The model {source} goes on after pooling with {', '.join(others)}, which is not followed here: take a "
            f"model of {', '.join(KNOWN)} alone."
        )
    made = {}
    limit = pretrained.settings(transformers, source, "sentence_bert_config.json").get("max_seq_length")
    if limit:
        made["max_tokens"] = limit
    if "Pooling" in places:
        told = pretrained.settings(transformers, source, f"{places['Pooling']}/config.json")
        modes = [key.removeprefix("pooling_mode_") for key, on in told.items() if on is True and "pooling_mode_" in key]
        modes = [_THEIRS.get(mode, mode) for mode in modes] or [told.get("pooling_mode", "mean")]
        if len(modes) > 1 or modes[0] not in POOLINGS:
            raise BadOption(
                f"The model {source} pools by {' and '.join(map(str, modes))}; known are {', '.join(POOLINGS)}."
            )
        made["pooling"] = modes[0]
    return made
