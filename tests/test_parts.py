"""Every part of every folder keeps its contract, the checks catch parts that do not, and wrong names are explained."""

import ast
import importlib
import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import foilrec
from foilrec import contracts, parts
from foilrec.core import Backbone, Batch, Data, Loss, Negatives, Reader, Sampler, Tables
from foilrec.errors import BadOption, NoSuchPart
from foilrec.numerics import streams

EVERY = [(kind, name) for kind in parts.FAMILIES for name in parts.names(kind)]
HERE = Path(foilrec.__file__).parent


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_part_keeps_its_contract(kind: str, name: str) -> None:
    assert contracts.problem(kind, name) is None


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_file_holds_exactly_one_class_of_its_family(kind: str, name: str) -> None:
    folder, base = parts.FAMILIES[kind]
    module = importlib.import_module(f"foilrec.{folder}.{name}")
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    assert [c for c in own if issubclass(c, base)] == [parts.find(kind, name)]


@pytest.mark.parametrize("kind", parts.FAMILIES)
def test_the_folder_is_the_register(kind: str) -> None:
    files = {path.stem for path in (HERE / parts.FAMILIES[kind][0]).glob("*.py")} - {"__init__"}
    assert set(parts.names(kind)) == files
    assert files
    init = ast.parse((HERE / parts.FAMILIES[kind][0] / "__init__.py").read_text())
    assert len(init.body) == 1, "the folder's __init__ lists nothing: it holds a docstring"


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_default_fits_the_type_of_its_own_option(kind: str, name: str) -> None:
    for option in parts.options(parts.find(kind, name)).values():
        if option.default is not parts.Option.REQUIRED and option.default is not None:
            assert parts.fits(option.default, option.type), str(option)


class SeenSampler(Sampler):
    """Draws from everything, the seen items too."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """The positive itself."""
        return Negatives(ids=batch.positives[:, None])


class DeafSampler(Sampler):
    """Does not listen to the seed."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """Uniform draws of seed 0, whatever the seed."""
        key = streams.key(0, "draw", batch.epoch)
        return Negatives(ids=self.data.seen.unseen(batch.users, torch.as_tensor(batch.rows), 2, key))


class ConstantSampler(Sampler):
    """Does not listen to the epoch."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """Uniform draws of epoch 0, whatever the epoch."""
        return Negatives(ids=self.data.seen.unseen(batch.users, torch.as_tensor(batch.rows), 2, self.seed))


class BatchSizeSampler(Sampler):
    """Numbers its draws by the place in the batch."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """Other draws for another batch size."""
        places = torch.arange(len(batch))
        return Negatives(ids=self.data.seen.unseen(batch.users, places, 2, self.key(batch)))


class RestlessSampler(Sampler):
    """Draws from the global generator."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """Other draws at every call."""
        key = int(torch.randint(2**40, ()))
        return Negatives(ids=self.data.seen.unseen(batch.users, torch.as_tensor(batch.rows), 2, key))


class OutsideSampler(Sampler):
    """Draws an item that does not exist; its vectors look fine."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """log_q above 0: no probability."""
        return Negatives(ids=self.unseen(batch, 1), log_q=torch.ones(len(batch), 1))


class ShyFullUser(Sampler):
    """Draws uniformly, and gives users without an unseen item something anyway."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """Item 0 to those who have everything."""
        if (self.data.seen.counts[batch.users] == self.data.n_items).any():
            return Negatives(ids=torch.zeros(len(batch), 1, dtype=torch.long))
        return Negatives(ids=self.unseen(batch, 1))


class Undocumented(Sampler):
    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """Uniform draws."""
        return Negatives(ids=self.unseen(batch, 1))


class SilentOption(Undocumented):
    """Says nothing about what it takes."""

    def __init__(self, data: Data, *, temper: float = 1.0) -> None:
        super().__init__(data)
        self.temper = temper


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (SeenSampler, "took in training"),
        (DeafSampler, "every seed draws the same"),
        (ConstantSampler, "every epoch draws the same"),
        (BatchSizeSampler, "half batches"),
        (RestlessSampler, "the same seed draws other|half batches"),
        (OutsideSampler, "log_q above 0"),
        (ShyFullUser, "a user with 0 unseen items"),
        (Undocumented, "no docstring"),
        (SilentOption, "does not name temper"),
    ],
)
def test_a_broken_sampler_is_caught(part: type[Sampler], words: str) -> None:
    with pytest.raises(contracts.ContractBroken, match=words):
        contracts.check_sampler(part)


class Vectors(Backbone):
    """A table of users and one of items."""

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.users = torch.nn.Parameter(torch.randn(data.n_users, 4))
        self.items = torch.nn.Parameter(torch.randn(data.n_items, 4))

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """The tables."""
        return Tables(items=self.items, users=self.users)


class WrongShape(Vectors):
    """Forgets the last item."""

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """One item short."""
        return Tables(items=self.items[:-1], users=self.users)


class NarrowQuery(Vectors):
    """Has users of another width."""

    def query(self, tables: Tables, batch: Batch) -> Tensor:
        """Two numbers a user."""
        return tables.user_rows(batch.users)[:, :2]


class Idle(Vectors):
    """Has a parameter that nothing uses."""

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.spare = torch.nn.Parameter(torch.zeros(3))


class Forgetful(Vectors):
    """Keeps a matrix that no checkpoint holds."""

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.turn = torch.randn(4, 4)

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """The items turned by it."""
        return Tables(items=self.items @ self.turn, users=self.users)


class TwoMinded(Vectors):
    """Gives rows that are not those of its table."""

    class Other(Tables):
        """Rows of twice the size."""

        def item_rows(self, ids: Tensor) -> Tensor:
            """Twice the rows."""
            return 2 * self.items[ids]

    def propagate(self, inputs: Tensor | None = None) -> Tables:
        """Its own kind of tables."""
        return self.Other(items=self.items, users=self.users)


def test_a_sound_backbone_passes() -> None:
    contracts.check_backbone(Vectors)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (WrongShape, r"items are \(59, 4\)"),
        (NarrowQuery, "items are"),
        (Idle, "no gradient reaches spare"),
        (Forgetful, "a copy with the same state_dict"),
        (TwoMinded, "item_rows"),
    ],
)
def test_a_broken_backbone_is_caught(part: type[Backbone], words: str) -> None:
    with pytest.raises(contracts.ContractBroken, match=words):
        contracts.check_backbone(part)


class Backwards(Loss):
    """Prefers the worse positive."""

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """The wrong sign."""
        return torch.nn.functional.softplus(positive[:, None] - negative).mean()


class Overflowing(Loss):
    """Takes the logarithm of a sigmoid."""

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """Infinite for a gap of -200."""
        return -(positive[:, None] - negative).sigmoid().log().mean()


class Unmasked(Loss):
    """Looks at masked columns."""

    def forward(self, positive: Tensor, negative: Tensor, negatives: Negatives) -> Tensor:
        """A mean over all columns."""
        return torch.nn.functional.softplus(negative - positive[:, None]).mean()


@pytest.mark.parametrize(
    ("part", "words"), [(Backwards, "better positive"), (Overflowing, "not finite"), (Unmasked, "masked negative")]
)
def test_a_broken_loss_is_caught(part: type[Loss], words: str) -> None:
    with pytest.raises(contracts.ContractBroken, match=words):
        contracts.check_loss(part)


class Uphill(torch.optim.SGD):
    """Goes up. lr: how fast; momentum, dampening, weight_decay, nesterov, maximize, foreach, differentiable, fused."""

    def __init__(self, params: Any, *, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr, maximize=True)


class Amnesiac(torch.optim.SGD):
    """Loses its momentum when it is saved. lr: how fast."""

    def __init__(self, params: Any, *, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr, momentum=0.5)

    def load_state_dict(self, state_dict: Any) -> None:
        """Nothing comes back."""


@pytest.mark.parametrize(("part", "words"), [(Uphill, "did not go down"), (Amnesiac, "continues differently")])
def test_a_broken_optimizer_is_caught(part: type[torch.optim.Optimizer], words: str) -> None:
    with pytest.raises(contracts.ContractBroken, match=words):
        contracts.check_optimizer(part)


class Leaky(Reader):
    """Holds out what it also trains on."""

    def read(self) -> Data:
        """The test rows are training rows."""
        train = torch.tensor([[0, 0], [0, 1], [1, 1]])
        return Data(2, 2, train, train[:0], train[:1])


class OutOfRange(Reader):
    """Numbers an item that does not exist."""

    def read(self) -> Data:
        """Item 2 of two."""
        train = torch.tensor([[0, 0], [0, 2]])
        return Data(2, 2, train, train[:0], train[:0])


@pytest.mark.parametrize(("part", "words"), [(Leaky, "in train too"), (OutOfRange, "names item 2 in row 1")])
def test_a_broken_reader_is_caught(part: type[Reader], words: str) -> None:
    with pytest.raises(contracts.ContractBroken, match=words):
        contracts.check_reader(part)


@pytest.mark.parametrize(
    ("kind", "name", "options", "error", "words"),
    [
        ("sampler", "unifrom", {}, NoSuchPart, "no sampler 'unifrom': did you mean 'uniform'"),
        ("samplr", "uniform", {}, NoSuchPart, "no family 'samplr': did you mean 'sampler'"),
        ("sampler", "dns", {"pol": 3}, BadOption, "no option 'pol': did you mean 'pool'"),
        ("sampler", "dns", {"zzz": 3}, BadOption, "It takes pool: int = 16"),
        ("sampler", "dns", {"pool": "many"}, BadOption, "pool: int = 16 cannot be 'many'"),
        ("sampler", "dns", {"pool": True}, BadOption, "cannot be True"),
        ("sampler", "dns", {"pool": 2.0}, BadOption, "cannot be 2.0"),
        ("sampler", "mixgcf", {"alpha": [0.0, math.nan]}, BadOption, "cannot be [0.0, nan]"),
        ("loss", "bce", {"label": math.inf}, BadOption, "label: float = 0.0 cannot be inf"),
        ("backbone", "lightgcn", {"init": "zeros"}, BadOption, "cannot be 'zeros'"),
        ("dataset", "mmrec", {}, BadOption, "'mmrec' needs path"),
        ("sampler", "no.such.module:Mine", {}, NoSuchPart, "no module 'no'"),
        ("sampler", "foilrec.core:Mine", {}, NoSuchPart, "has no 'Mine'"),
        ("sampler", "foilrec.core:Loss", {}, NoSuchPart, "is no sampler"),
        ("sampler", "foilrec.core:score", {}, NoSuchPart, "is no sampler"),
    ],
)
def test_a_wrong_name_or_option_is_explained(
    kind: str, name: str, options: dict[str, Any], error: type[Exception], words: str, world: Data
) -> None:
    with pytest.raises(error) as caught:
        parts.build(kind, name, world, **options)
    assert words in str(caught.value)


def test_an_int_stands_for_a_float_and_a_plural_for_a_family(world: Data) -> None:
    assert parts.build("losses", "softmax", temperature=2).temperature == 2
    assert type(parts.build("samplers", "uniform", world, count=3)).__name__ == "Uniform"


def test_a_part_of_your_own_is_named_by_module_and_class(
    world: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = inspect.getsource(ShyFullUser).replace("ShyFullUser", "Mine")
    imports = "from torch import Tensor\nimport torch\nfrom foilrec.core import *\n"
    (tmp_path / "my_own_lab.py").write_text(f"{imports}\n\n{source}")
    monkeypatch.syspath_prepend(tmp_path)
    mine = parts.build("sampler", "my_own_lab:Mine", world)
    batch = next(world.batches(8, seed=0))
    drawn = mine(Tables(items=torch.zeros(60, 2)), batch, torch.zeros(8, 2))
    assert drawn.shape == (8, 1)
    problem = contracts.problem("sampler", "my_own_lab:Mine")
    assert problem is not None
    assert "a user with 0 unseen items" in problem
