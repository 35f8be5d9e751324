"""CCDRec's graded pools and the curriculum that draws from them."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec.core import Backbone, Batch, Data, Negatives, Sampler, Tables, rows_of
from foilrec.diffusion.chains import Denoiser
from foilrec.errors import BadOption, PartsDoNotFit, at_least, must_hold
from foilrec.negatives.ranked import pick_ranked
from foilrec.numerics import kernels, streams

FINAL = 5  # the stage whose pool is the recommender's own table
CACHED = 2**17  # likenesses worked out at a time: what stays in a core's own cache


class CCDRec(Sampler):
    """NDI and CNS (Yang et al., AAAI 2025), eq. 6-9: items like the positive, in pools of rising likeness to it.

    Stage s of the curriculum looks at pool s: item rows after 1/4, 1/2, 3/4 and all of the reverse chain of backbone
    `aligned` (E^3T/4, E^T/2, E^T/4, E^0), and, after epoch `end`, the recommender's own items (stage 5). Of some random
    candidates, those that the user took are out, the best share by likeness to the positive's row in the pool stays,
    and one of them is drawn evenly. Its id is scored as any item, so pools carry no gradient. The other negative of a
    row is easy (data.easy); weights (1 - omega, omega). In epoch 0 there is no pool: the easy one is all. Likeness is
    between items: the user's own score has no part in it. graded, which needs no chain, is stated by how hard it is to
    be.

    delta: epochs a stage (3 .. 20). end: last epoch of the pools (30 .. 100); end < 3 delta never reaches E^0. omega:
    weight of the hard negative, .5 .. .9. candidates: how many, drawn with replacement, as a share of the items if
    below 1. top: the share of them that stays. similarity: "product" as published, or "cosine". per_row: candidates of
    each row on its own instead of one set a batch (dearer: for few candidates). stage: keep one stage, 1 .. 5 (an
    ablation; 4 is «static hardest»). legacy: the released code's boundaries of stages, with `start` epochs of stage 1
    (delta if not given), and its places of the pools in the chain.
    """

    shares_batch = True

    def __init__(
        self,
        data: Data,
        *,
        delta: int = 5,
        end: int = 30,
        omega: float = 0.8,
        candidates: float = 0.1,
        top: float = 0.1,
        similarity: Literal["product", "cosine"] = "product",
        per_row: bool = False,
        stage: int | None = None,
        legacy: bool = False,
        start: int | None = None,
    ) -> None:
        super().__init__(data)
        must_hold(
            "ccdrec",
            **at_least(0, end=end, start=start),
            delta=(delta, delta >= 1, "at least 1"),
            omega=(omega, 0 <= omega <= 1, "in 0 .. 1"),
            candidates=(candidates, candidates > 0, "above 0"),
            top=(top, 0 < top <= 1, "above 0, up to 1"),
            stage=(
                stage,
                stage is None or 1 <= stage <= FINAL,
                "1 .. 4 for a pool of the chain, or 5 for the final items",
            ),
        )
        if start is not None and not legacy:
            raise BadOption("ccdrec: start belongs to legacy = true: otherwise stage 1 lasts delta epochs.")
        self.delta, self.end, self.omega, self.top, self.fixed = delta, end, omega, top, stage
        self.candidates = max(1, round(candidates * data.n_items if candidates < 1 else candidates))
        self.cosine, self.per_row, self.legacy = similarity == "cosine", per_row, legacy
        self.start, self.begins = delta if start is None else start, 1
        self.pool: Tensor | None = None
        self.stage = 0

    def stage_of(self, epoch: int) -> int:
        """The stage of an epoch, 1 .. 5 (eq. 7): min(floor(n / delta), 3) + 1 up to `end`, then 5."""
        if self.fixed is not None:
            return self.fixed
        if epoch > self.end:
            return FINAL
        if self.legacy:
            return 1 + sum(epoch > self.start + k * self.delta for k in range(3))
        return 1 + min(epoch // self.delta, 3)

    def place_of(self, stage: int, steps: int) -> int:
        """The step t of the chain after which pool `stage`, 1 .. 4, is taken."""
        if self.legacy:
            return int((1 - stage / 4) * (steps - 1))
        return steps - -(-stage * steps // 4)

    def begin_epoch(self, epoch: int, model: Backbone, tables: Tables) -> None:
        """Takes this epoch's pool off the chain, which runs no further than that."""
        if not isinstance(model, Denoiser):
            raise PartsDoNotFit("ccdrec takes its pools from a reverse diffusion: put backbone aligned around yours.")
        self.stage, self.pool = self.stage_of(epoch), None
        if not epoch:
            return
        if self.stage == FINAL:
            self.pool = tables.items.detach()
        else:
            place = self.place_of(self.stage, model.steps)
            self.pool = next(rows for t, rows in model.denoise(epoch - 1) if t == place)
        if self.cosine:
            self.pool = normalize(self.pool)

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids [B, 2], easy and hard, with weights (2 - 2 omega, 2 omega), which a mean over two turns into shares."""
        easy = self.data.easy(batch)[:, None]
        if self.pool is None:
            return Negatives(ids=easy, level=torch.zeros_like(easy))
        hard = self._like(batch, self.pool)[:, None]
        weights = easy.new_tensor([2 - 2 * self.omega, 2 * self.omega], dtype=torch.get_default_dtype())
        level = torch.cat([torch.zeros_like(easy), torch.full_like(easy, self.stage)], 1)
        return Negatives(ids=torch.cat([easy, hard], 1), weights=weights.expand(len(batch), 2), level=level)

    def _like(self, batch: Batch, pool: Tensor) -> Tensor:
        """One of each row's best candidates, [B]."""
        rows, wanted = rows_of(batch), pool[batch.positives]
        keep, key = max(1, round(self.top * self.candidates)), self.key(batch, "rank")
        if self.per_row:
            ids = self.unseen(batch, self.candidates, "candidates")
            best = kernels.candidate_scores(wanted, pool, ids).topk(keep, dim=1).indices
            at = kernels.below(kernels.words(rows, key, 1), torch.tensor(keep, device=pool.device))
            return ids.gather(1, best.gather(1, at)).squeeze(1)
        generator = streams.generator(self.key(batch, "candidates"), batch.first)
        ids = torch.randint(self.data.n_items, (self.candidates,), generator=generator).to(pool.device)
        candidates, seen = pool[ids].T, self.data.seen.on(pool.device)
        few = max(1, CACHED // len(ids)) if pool.device.type == "cpu" else len(rows)
        blocks = zip(wanted.split(few), batch.users.split(few), rows.split(few), strict=True)
        taken = seen.starts, seen.items
        found = torch.cat([pick_ranked(q @ candidates, ids, users, at, taken, keep, key) for q, users, at in blocks])
        none = (found < 0).nonzero().squeeze(1)
        if len(none):
            found[none] = seen.unseen(batch.users[none], rows[none], 1, key)[:, 0]
        return found
