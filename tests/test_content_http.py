"""Servers that misbehave: what passes is asked again, what is final is told at once, and no secret is kept anywhere."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

import model_server as server
from foilrec.content import backends, http
from foilrec.content.backends.openai import OpenAI
from foilrec.content.datasheet import write_datasheet
from foilrec.content.desk import Desk
from foilrec.content.export import export
from foilrec.content.generation import IN_A_ROW, Generation, Order
from foilrec.content.goods import Item
from foilrec.content.pictures import PROBE
from foilrec.content.schema import problems
from foilrec.content.store import Store
from foilrec.content.templates import analyse
from foilrec.data import Data
from foilrec.errors import BadOption, ModelFailed, NoSuchPart

PROMPT = analyse(Item(0, "Red cotton hat"))
SECRET = "sk-very-secret-0123456789"


def asked(backend: OpenAI, prompt: Any = PROMPT) -> Any:
    return backend.complete(prompt.messages, prompt.schema, prompt.max_tokens, 0.0, 5)


def backend_of(one: server.Server, **options: Any) -> OpenAI:
    return OpenAI(url=one.url, model="small-model", **options)


def test_a_question_goes_out_whole_and_its_answer_comes_back() -> None:
    with server.serving() as one:
        backend = OpenAI(url=one.url.removesuffix("/v1"), timeout=10.0)
        backend.look(pictures=False)
        found = asked(backend)
        body = one.asked[0]
    assert backend.model == "small-model" == body["model"] and not backend.sees
    assert problems(json.loads(found.text), PROMPT.schema) == [] and found.usage == (300, 60)
    assert [m["content"] for m in body["messages"]] == [m.text for m in PROMPT.messages]
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (PROMPT.max_tokens, 0.0, 5)
    assert body["response_format"]["json_schema"]["schema"] == PROMPT.schema
    assert "Authorization" not in one.headers[0]


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (server.status(429, "slow down", Retry_After="0.25"), "answered 429"),
        (server.status(500), "answered 500"),
        (server.status(503), "answered 503"),
        (server.status(408), "answered 408"),
        (server.hang(0.5), "no whole answer"),
        (server.drop, "no whole answer"),
        (server.cut, "no whole answer"),
        (server.garbage, "no JSON object"),
        (lambda handler, body: handler.reply(200, {"choices": []}), "no message"),
    ],
)
def test_errors_that_pass_are_asked_again(act: server.Act, told: str, tmp_path: Path) -> None:
    pauses: list[float] = []
    with server.serving(act) as one:
        store = Store(tmp_path / "store.sqlite")
        desk = Desk(backend_of(one, timeout=0.2), store, sleep=pauses.append)
        assert problems(json.loads(desk.ask(PROMPT, 1)), PROMPT.schema) == []
        assert len(one.asked) == 2 and len(pauses) == 1 and 0.25 <= pauses[0] <= 1
    failed = store._rows("SELECT error, prompt FROM requests WHERE state = 'failed'")
    assert len(failed) == 1 and told in failed[0][0]
    assert (failed[0][1] > 0) == told.startswith("no ")  # it was answered, and may have been paid for
    store.close()


@pytest.mark.parametrize(
    ("act", "told", "everywhere"),
    [
        (server.status(401, "who are you"), "--key-env", True),
        (server.status(403), "answered 403", True),
        (server.status(404), "answered 404", True),
        (server.status(302, Location="http://127.0.0.1:9/"), "answered 302", True),
        (server.status(500, "image input is not supported - you may need the mmproj"), "mmproj", False),
        (server.says(None), "did not answer", False),
    ],
)
def test_final_errors_are_told_at_once(act: server.Act, told: str, everywhere: bool) -> None:
    with server.serving(act) as one:
        with pytest.raises(ModelFailed) as caught:
            asked(backend_of(one))
        assert len(one.asked) == 1
    assert told in str(caught.value) and caught.value.everywhere is everywhere and not caught.value.passing


def test_nobody_there_is_told_at_once() -> None:
    with server.serving() as one:
        url = one.url
    with pytest.raises(ModelFailed, match="No server answers"):
        OpenAI(url=url).look(pictures=False)


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST", 1000)
    with server.serving(server.says("x" * 2000)) as one, pytest.raises(ModelFailed, match="too long"):
        asked(backend_of(one))


@pytest.mark.parametrize("accepted", ["json_schema", "json_object", "plain"])
def test_the_form_of_answers_is_agreed_once(accepted: str) -> None:
    def picky(handler: server.Handler, body: dict[str, Any]) -> None:
        form = body.get("response_format", {}).get("type", "plain")
        if form != accepted:
            handler.reply(400, {"error": {"message": f"response_format {form} is unknown"}})
        else:
            server.good(handler, {**body, "_schema": PROMPT.schema})

    with server.serving() as one:
        one.then = picky
        backend = backend_of(one)
        for _ in range(2):
            assert problems(json.loads(asked(backend).text), PROMPT.schema) == []
        refusals = ["json_schema", "json_object", "plain"].index(accepted)
        assert len(one.asked) == 2 + refusals


def test_a_question_refused_in_every_form_leaves_the_agreed_one_alone() -> None:
    with server.serving(*[server.status(400, "context too long")] * 3) as one:
        backend = backend_of(one)
        with pytest.raises(ModelFailed, match="context too long"):
            asked(backend)
        asked(backend)
        assert one.asked[-1]["response_format"]["type"] == "json_schema" and len(one.asked) == 4


def test_a_server_that_fails_over_schemas_gets_a_plainer_form() -> None:
    with server.serving(server.status(500, "failed to parse grammar")) as one:
        one.then = lambda handler, body: server.good(handler, {**body, "_schema": PROMPT.schema})
        asked(backend_of(one))
        assert [body["response_format"]["type"] for body in one.asked] == ["json_schema", "json_object"]


def test_words_that_a_server_does_not_take_are_left_out() -> None:
    refusals = (
        server.status(400, "Unsupported parameter: use max_completion_tokens"),
        server.status(400, "'temperature' does not support 0"),
    )
    with server.serving(*refusals) as one:
        backend = backend_of(one)
        asked(backend)
        asked(backend)
        assert len(one.asked) == 4
        assert all("max_tokens" not in body and "max_completion_tokens" in body for body in one.asked[1:])
        assert all("temperature" not in body and "seed" in body for body in one.asked[2:])


@pytest.mark.parametrize(
    ("act", "sees"),
    [
        (server.says("yes"), True),
        (server.status(500, "image input is not supported: mmproj"), False),
        (server.status(400, "this model takes no images"), False),
    ],
)
def test_one_pixel_tells_whether_a_server_sees(act: server.Act, sees: bool) -> None:
    with server.serving(act) as one:
        backend = backend_of(one)
        backend.look(pictures=True)
        assert backend.sees is sees and len(one.asked) == 1
        told = one.asked[0]["messages"][0]["content"]
        assert told[1]["image_url"]["url"] == PROBE.uri()
    with server.serving() as one:
        backend_of(one).look(pictures=False)
        assert not one.asked


def test_a_model_that_the_server_has_not_is_told() -> None:
    with server.serving() as one:
        with pytest.raises(BadOption, match="did you mean 'small-model'"):
            OpenAI(url=one.url, model="smal-model").look(pictures=False)
        one.models = ["a", "b"]
        with pytest.raises(BadOption, match="it has a, b"):
            OpenAI(url=one.url).look(pictures=False)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "file:///etc/passwd"}, "no address"),
        ({"url": "localhost:8080"}, "no address"),
        ({"url": "http://me:pw@host/v1"}, "--key-env"),
        ({"url": "http://host/v1?key=1"}, "--key-env"),
        ({"url": "http://host", "key_env": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE"),
        ({"url": "http://host", "timeout": 0.0}, "above 0"),
        ({}, "needs url"),
        ({"url": "http://host", "speed": 1}, "takes no speed"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadOption, match=told):
        backends.build("openai", **options)
    with pytest.raises(NoSuchPart, match="did you mean 'openai'"):
        backends.build("opanai")


def run(data: Data, folder: Path, one: server.Server, **options: Any) -> Generation:
    """A small generation over HTTP, to its end."""
    order = Order(difficulties=(1,), sample=3, pictures=False)
    made = Generation(data, folder, OpenAI(url=one.url, **options), order)
    try:
        for _ in made.run():
            pass
        export(made.store, made.goods, made.encoder, folder)
        write_datasheet(made.store, folder)
    finally:
        made.store.close()
    return made


def test_a_wrong_answer_is_asked_for_again_with_its_errors(world: Data, tmp_path: Path) -> None:
    with server.serving(server.says('{"captions": {}, "attri'), server.good, server.says('{"edit": []}')) as one:
        run(world, tmp_path, one, workers=1)
        again = [body for body in one.asked if len(body["messages"]) == 4]
        assert len(one.asked) == 9 + 2 and len(again) == 2
        assert "no whole JSON object" in again[0]["messages"][3]["content"]
        assert "$.edits is missing" in again[1]["messages"][3]["content"]
    assert len((tmp_path / "negatives.jsonl").read_text().splitlines()) == 3


def test_an_answer_that_is_wrong_twice_is_dropped_with_its_reason(world: Data, tmp_path: Path) -> None:
    with server.serving(server.says("no"), server.says("[]")) as one:
        run(world, tmp_path, one, workers=1)
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [row["gate"] for row in rejected] == ["analyse: schema"] and rejected[0]["state"] == "rejected"
    assert len((tmp_path / "negatives.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "datasheet.json").read_text())["rejected_by"] == {"analyse: schema": 1}


@pytest.mark.parametrize("usage", [{"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 10**15}, {"x": "y"}])
def test_a_usage_that_cannot_be_is_replaced_by_our_count(world: Data, tmp_path: Path, usage: dict[str, Any]) -> None:
    with server.serving() as one:
        one.then = server.lying(**usage)
        run(world, tmp_path, one)
    sheet = json.loads((tmp_path / "datasheet.json").read_text())
    assert sum(row["counted"] for row in sheet["requests"]) == 0
    assert 2_000 < sheet["spent"]["tokens"] < 20_000


def test_a_server_that_goes_away_ends_the_run_and_keeps_what_there_is(world: Data, tmp_path: Path) -> None:
    with server.serving(*[server.good] * 3) as one:
        one.then = server.status(400, "quota of today is used up")
        order = Order(difficulties=(1,), pictures=False)
        made = Generation(world, tmp_path, OpenAI(url=one.url, workers=1), order)
        with pytest.raises(ModelFailed, match=f"{IN_A_ROW} items in a row"):
            list(made.run())
        states = [outcome.state for outcome in made.store.outcomes()]
        assert states.count("done") == 1 and states.count("failed") >= IN_A_ROW
        made.store.close()
        one.then = server.good
        whole = Generation(world, tmp_path, OpenAI(url=one.url), order, resume=True)
        list(whole.run())
        assert {outcome.state for outcome in whole.store.outcomes()} == {"done"}
        whole.store.close()


def test_a_key_is_sent_and_kept_nowhere(
    world: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    careless = [server.echo_key(200), server.echo_key(500), server.echo_key(400)]
    monkeypatch.setattr("foilrec.content.retry.FIRST", 0.01)
    with server.serving(*careless) as one:
        run(world, tmp_path, one, key_env="MY_KEY", workers=1)
        assert {headers["Authorization"] for headers in one.headers} == {f"Bearer {SECRET}"}
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 6
    assert not [path.name for path in files if SECRET.encode() in path.read_bytes()]
    assert any(b"Bearer ***" in path.read_bytes() for path in files)
    with server.serving(server.echo_key(401)) as one, pytest.raises(ModelFailed) as caught:
        asked(OpenAI(url=one.url, key_env="MY_KEY"))
    assert SECRET not in str(caught.value) and SECRET not in repr(caught.value.__cause__)


@pytest.mark.parametrize("key", [f"{SECRET}\r", f"{SECRET}\n", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(BadOption, match="cannot be sent") as caught:
        OpenAI(url="http://127.0.0.1:1/v1", key_env="MY_KEY")
    assert key.strip() not in str(caught.value)


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(BadOption, match="is no address of a server"):
        OpenAI(url="http://[::1/v1")


@pytest.mark.parametrize("content", [{"choices": [{"message": {"content": None}}]}, {"choices": []}, [1]])
def test_what_was_answered_in_vain_counts_all_the_same(
    content: Any, world: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foilrec.content.retry.FIRST", 0.0)
    monkeypatch.setattr("foilrec.content.retry.LONGEST", 0.0, raising=False)
    with server.serving() as one:
        one.then = lambda handler, body: handler.reply(200, content)
        run(world, tmp_path, one, workers=1)
        sent = len(one.asked)
    sheet = json.loads((tmp_path / "datasheet.json").read_text())
    assert sheet["spent"]["requests"] == sent and sheet["spent"]["tokens"] > 300 * sent


def test_so_many_questions_are_under_way_at_once(world: Data, tmp_path: Path) -> None:
    now, most, lock = [0], [0], threading.Lock()

    def slow(handler: server.Handler, body: dict[str, Any]) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        server.good(handler, body)

    with server.serving() as one:
        one.then = slow
        made = Generation(
            world, tmp_path, OpenAI(url=one.url), Order(difficulties=(1,), sample=12, pictures=False), workers=3
        )
        list(made.run())
        made.store.close()
    assert most[0] == 3


def test_retry_after_may_be_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (http._seconds(soon) or 0) <= 30
    assert http._seconds("7") == 7 and http._seconds("soon") is None and http._seconds(None) is None
    assert http._seconds("-3") == 0


def test_a_picture_is_sent_where_it_is_seen(world: Data, tmp_path: Path) -> None:
    def blind_rules(handler: server.Handler, body: dict[str, Any]) -> None:
        contents = [
            m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] for m in body["messages"]
        ]
        told = [{**m, "content": content} for m, content in zip(body["messages"], contents, strict=True)]
        server.good(handler, {**body, "messages": told})

    with server.serving(server.says("yes")) as one:
        one.then = blind_rules
        made = Generation(world, tmp_path, OpenAI(url=one.url), Order(difficulties=(1,), sample=2))
        list(made.run())
        made.store.close()
        pictured = [body for body in one.asked[1:] if "data:image" in json.dumps(body)]
        assert made.backend.sees and len(pictured) == 2 and len(one.asked) == 1 + 2 * 3
    assert b"data:image" not in (tmp_path / "store.sqlite").read_bytes()
