"""A language model in this process, by the library transformers: texts alone, and no grammar to hold it."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from foilrec.content.chat import Completion, Message, Usage
from foilrec.content.schema import Schema
from foilrec.errors import BadOption, MissingExtra, ModelFailed


class Transformers:
    """A causal model with a chat template, from a folder or from the library's cache.

    It sees no pictures: serve a model that does with vLLM or llama.cpp and ask it by the backend openai. device: where
    it runs.
    """

    name, workers, sees = "transformers", 1, False

    def __init__(self, *, model: str, device: str = "cpu") -> None:
        self.model, self._device = Path(model).name if Path(model).is_dir() else model, device
        self._source, self._lock = model, threading.Lock()
        self._made: tuple[Any, Any] | None = None

    def look(self, *, pictures: bool) -> None:
        """Loads the model."""
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise MissingExtra("transformers", "text", "The backend transformers") from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(self._source)
            model = AutoModelForCausalLM.from_pretrained(self._source, use_safetensors=True).to(self._device).eval()
        except (OSError, ValueError) as error:
            raise BadOption(f"--model {self._source} cannot be loaded: {str(error).splitlines()[0]}") from error
        if not tokenizer.chat_template:
            raise BadOption(f"--model {self._source} has no chat template: take a model made for instructions.")
        self._made = tokenizer, model

    def complete(
        self, messages: Sequence[Message], schema: Schema, max_tokens: int, temperature: float, seed: int
    ) -> Completion:
        """One answer; the likeliest words at temperature 0, else drawn by the seed."""
        assert self._made is not None, "look() loads the model"
        tokenizer, model = self._made
        turns = [{"role": m.role, "content": m.text} for m in messages]
        with self._lock, torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            asked = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(self._device)
            drawn = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
            try:
                made = model.generate(**asked, max_new_tokens=max_tokens, pad_token_id=tokenizer.eos_token_id, **drawn)
            except (RuntimeError, IndexError, ValueError) as error:
                raise ModelFailed(f"{self.model} did not answer: {error}.") from error
        new = made[0, asked["input_ids"].shape[1] :]
        finish = "length" if len(new) >= max_tokens else "stop"
        text = tokenizer.decode(new, skip_special_tokens=True)
        return Completion(text, Usage(asked["input_ids"].shape[1], len(new)), finish)
