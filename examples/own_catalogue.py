"""Files as a shop of your own has them, made from the synthetic one: clicks.csv, items.csv, and a recipe of both."""

import csv
from pathlib import Path

from foilrec import parts

shop = parts.build("dataset", "shop", users=300, items=120).read()
clicks = [pair for part in (shop.train, shop.valid, shop.test) for pair in part.tolist()]

with Path("clicks.csv").open("w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(["user", "item"])
    rows.writerows((shop.user_ids[user], shop.item_ids[item]) for user, item in clicks)

with Path("items.csv").open("w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(["item", "title", "description"])  # and perhaps picture, a path
    rows.writerows(zip(shop.item_ids, shop.titles, shop.descriptions, strict=True))

Path("own.toml").write_text(
    """
name = "own"

[data]
name = "table"
path = "clicks.csv"
items = "items.csv"
feature_ids = "features-own/feature_ids.csv"

[data.features]
text = "features-own/text_feat.npy"

[backbone]
name = "vbpr"
dim = 32
init = "normal"

[sampler]
name = "neggen"
path = "generated/own"

[optimizer]
name = "adam"
lr = 0.01

[train]
batch = 1024
epochs = 10
""",
    encoding="utf-8",
)
print(f"clicks.csv: {len(clicks):,} rows; items.csv: {shop.n_items} items; own.toml: a recipe of both")
