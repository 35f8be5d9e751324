"""What went wrong in other samplers of negatives must not go wrong in ours: every file of the folder is asked."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from foilrec import contracts, parts
from foilrec.core import Backbone, Batch, Data, Negatives, Sampler
from foilrec.errors import PartsDoNotFit

Draw = Callable[[Data, Batch], Negatives]


def batch_of(data: Data, rows: torch.Tensor) -> Batch:
    """Some training rows in epoch 1."""
    users, positives = (column.contiguous() for column in data.train[rows].unbind(1))
    return Batch(users, positives, rows, epoch=1)


@pytest.fixture(params=parts.names("sampler"))
def draw(request: pytest.FixtureRequest, world: Data) -> Draw:
    """A sampler of the folder beside a backbone that suits it."""
    part: type[Sampler] = parts.find("sampler", request.param)
    host: Backbone = contracts._host(part, world, contracts._inner_parts(part, world))
    tables = host.propagate()

    def drawn(data: Data, batch: Batch) -> Negatives:
        sampler = contracts._seeded(lambda: part(data, **contracts._inner_parts(part, data)))
        try:
            sampler.begin_epoch(1, host, tables)
        except PartsDoNotFit as error:
            pytest.skip(str(error))
        found: Negatives = sampler(tables, batch, host.query(tables, batch))
        return found

    return drawn


def test_held_out_pairs_change_no_draw(draw: Draw, world: Data) -> None:
    """Popularity, masks and memories that count validation or test pairs leak them into training."""
    hidden = replace(world, valid=world.test, test=world.valid.flip(1).clamp(max=world.n_users - 1)[:5])
    batch = batch_of(world, torch.arange(40))
    one, other = draw(world, batch), draw(hidden, batch)
    for form in ("ids", "vectors", "weights", "log_q", "mask"):
        a, b = getattr(one, form), getattr(other, form)
        assert (a is None and b is None) or torch.equal(a, b)


def test_nobody_elses_random_numbers_are_taken_or_seeded(draw: Draw, world: Data) -> None:
    """A constructor that seeds, or a draw from the global generator, changes what the user's own code does."""

    def states() -> tuple[object, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    draw(world, batch_of(world, torch.arange(40)))
    assert states() == before


def test_rows_of_one_user_do_not_share_their_negatives(draw: Draw, world: Data) -> None:
    """One set a user, given to all his positives, is less chance than it looks."""
    rows = (world.train[:, 0] == world.train[:, 0].mode().values).nonzero()[:, 0]
    drawn = draw(world, batch_of(world, rows))
    chosen = drawn.vectors if drawn.ids is None else drawn.ids
    assert chosen is not None and len(rows) > 5 and len(chosen.flatten(1).unique(dim=0)) > 1


def test_every_row_gets_what_was_asked_for_in_whole_numbers(draw: Draw, world: Data) -> None:
    """No row is skipped at a collision, no id is a float, and who has taken much is served like the others."""
    busy = (world.train[:, 0] == world.seen.counts.argmax()).nonzero()[:, 0]
    drawn = draw(world, batch_of(world, torch.cat([busy, torch.arange(20)]).unique()))
    if drawn.ids is not None:
        assert drawn.ids.dtype == torch.long and drawn.ids.shape[1] >= 1
        assert drawn.mask is None or bool(drawn.mask.any(1).all())


def test_choosing_builds_no_graph_and_states_no_false_law(draw: Draw, world: Data) -> None:
    """Ranking candidates with gradients on is waste; zeros given as log probabilities of a hard sampler are wrong."""
    drawn = draw(world, batch_of(world, torch.arange(40)))
    if drawn.ids is not None:
        assert drawn.weights is None or not drawn.weights.requires_grad
    if drawn.log_q is not None:
        assert not drawn.log_q.requires_grad and bool((drawn.log_q < 0).any())
