"""A plain PyTorch loop that takes only its negatives from foilrec: your model, your optimizer, your batches."""

import torch

import foilrec

data = foilrec.read("shop")
users, items = torch.nn.Embedding(data.n_users, 32), torch.nn.Embedding(data.n_items, 32)
optimizer = torch.optim.Adam([*users.parameters(), *items.parameters()], lr=0.01)
sampler = foilrec.build("sampler", "dns", data, pool=8)

for epoch in range(5):
    total = 0.0
    for rows in torch.randperm(len(data.train)).split(1024):
        u, p = data.train[rows].unbind(1)
        batch = foilrec.Batch(u, p, rows=rows, epoch=epoch)  # rows and epoch decide the draws
        negatives = sampler(foilrec.Tables(items=items.weight), batch, users(u)).ids  # [B, K]
        gap = (users(u) * items(p)).sum(1, keepdim=True) - (users(u)[:, None] * items(negatives)).sum(2)
        loss = -torch.nn.functional.logsigmoid(gap).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    print(f"epoch {epoch}: loss {total / len(data.train):.4f}")
