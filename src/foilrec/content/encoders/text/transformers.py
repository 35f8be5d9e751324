"""Any text model of the library transformers, by folder or name; folders of sentence-transformers as well."""

from typing import Literal

from foilrec.content.pooled import PooledText


class Transformers(PooledText):
    """The states of a model's last layer, pooled over a text's tokens and scaled to length 1.

    A folder of sentence-transformers says itself how to pool and where to cut (Reimers and Gurevych 2019); weights are
    read from safetensors alone, and no code of the model's own is run.

    model: a folder, or OWNER/MODEL, which the library fetches once. pooling: of the tokens; None for what the folder
    says, else the mean. max_tokens: texts are cut there (None: what the model was made for). prompt: put before every
    text, such as "passage: ". device: cpu, cuda, ...
    """

    name = "transformers"

    def __init__(
        self,
        *,
        model: str,
        pooling: Literal["mean", "cls", "max", "last"] | None = None,
        max_tokens: int | None = None,
        prompt: str = "",
        device: str = "cpu",
    ) -> None:
        super().__init__(
            model, pooling=pooling, max_tokens=max_tokens, prompt=prompt, device=device, who=f"The text model {model}"
        )
