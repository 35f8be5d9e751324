"""Times as dates: the seconds that they stand for, in every kind of table, and what is no date."""

import random
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
import torch

import foilrec
from foilrec.errors import BadData
from foilrec.reading.dates import is_date, seconds


def test_seconds_are_those_of_the_standard_library() -> None:
    draw, texts, wanted = random.Random(3), [], []
    for _ in range(300):
        zone = draw.choice([UTC, timezone(timedelta(minutes=draw.randrange(-1439, 1440)))])
        moment = datetime(draw.randrange(1, 9998), 2, 28, tzinfo=zone) + timedelta(seconds=draw.random() * 3e7)
        texts.append(moment.isoformat(draw.choice("T "), draw.choice(["minutes", "seconds", "milliseconds"])))
        wanted.append(datetime.fromisoformat(texts[-1]).timestamp())
    assert all(map(is_date, texts))
    assert seconds(pl.Series(texts)).to_list() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2024-05-31", "2024-05-31T00:00:00+00:00"),
        ("2024-05-31 08:30:00 UTC", "2024-05-31T08:30Z"),
        ("2024-05-31 08:30:00.5+02", "2024-05-31T06:30:00.500Z"),
        ("2024-05-31T08:30:00-0330", "2024-05-31T12:00Z"),
    ],
)
def test_what_is_not_said_is_midnight_and_utc(text: str, same: str) -> None:
    assert (
        is_date(text)
        and seconds(pl.Series([text])).item()
        == datetime.fromisoformat(same + "").replace(tzinfo=datetime.fromisoformat(same).tzinfo or UTC).timestamp()
    )


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2024", "31.05.2024", "2024-02-30", "2024-13-01", "2024-05-31T24:00", "2024-05-31 08", "2024-05-31\n"],
)
def test_what_is_no_date_is_none_to_both_passes(text: str) -> None:
    assert not is_date(text) and seconds(pl.Series([text, "2024-05-31"])).null_count() == 1


def test_a_split_goes_by_dates_as_by_numbers(tmp_path: Path) -> None:
    draw = random.Random(0)
    pairs = draw.sample([(f"u{u}", f"i{i}") for u in range(12) for i in range(15)], 120)
    days = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=draw.randrange(9000)) for _ in pairs]
    frame = pl.DataFrame({"user": [u for u, _ in pairs], "item": [i for _, i in pairs]})
    forms = {
        "number": pl.Series([int(day.timestamp()) for day in days]),
        "text": pl.Series([day.isoformat() for day in days]),
        "zoned": pl.Series(
            [day.astimezone(timezone(timedelta(hours=n % 5))).isoformat() for n, day in enumerate(days)]
        ),
        "real": pl.Series([day.replace(tzinfo=None) for day in days]),
    }
    prints = set()
    for name, column in forms.items():
        table = frame.with_columns(column.alias("date"))
        table.write_parquet(tmp_path / f"{name}.parquet")
        sources = [tmp_path / f"{name}.parquet", table]
        if name != "real":
            table.write_csv(tmp_path / f"{name}.csv")
            sources.append(tmp_path / f"{name}.csv")
        for source in sources:
            told = {"time": "date"} if source is table else {}
            data = foilrec.read(source, split="time", **told)
            prints.add(tuple(tuple(map(tuple, part.tolist())) for part in (data.train, data.valid, data.test)))
            assert data.timed and len(torch.cat([data.valid, data.test]))
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["2024-05-31", "2024-06-31", "2024-07-01"], "line 3, column 'time': '2024-06-31' is not a date"),
        (["2024-05-31", "17", "2024-07-01"], "line 3, column 'time': '17' is not a date"),
        (["17", "2024-05-31", "18"], "line 3, column 'time': '2024-05-31' is not a finite number"),
        (
            ["31.5.24", "1.6.24", "2.6.24"],
            "line 2, column 'time': '31.5.24' is not a finite number.*such as 2024-05-31",
        ),
    ],
)
def test_mixed_and_broken_times_are_named_by_line(rows: list[str], said: str, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("user,item,time\n" + "".join(f"u,i{n},{time}\n" for n, time in enumerate(rows)), encoding="utf-8")
    with pytest.raises(BadData, match=said):
        foilrec.read(file, time="time", split="time")
    with pytest.raises(BadData, match="a finite number, or a date in every row"):
        foilrec.read(pl.read_csv(file, infer_schema=False), time="time", split="time")


def test_which_columns_were_guessed_is_told(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    rows = [f"c{n // 4},p{n % 7},2024-05-{1 + n % 28:02d}\n" for n in range(40)]
    file.write_text("customer_id,product_id,Date\n" + "".join(rows), encoding="utf-8")
    told = "columns are taken so: customer_id as user, product_id as item, Date as time"
    assert told in foilrec.read(file).notes
    file.write_text("user,item\n" + "".join(row.rsplit(",", 1)[0] + "\n" for row in rows), encoding="utf-8")
    assert not any("taken so" in note for note in foilrec.read(file).notes)
