"""The Batch API of the reference server: files in, answers out, below everything interactive, and kept on disk."""

import asyncio
import json
import time

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("torch")
pytest.importorskip("fastapi")

from running_server import serving, wait_for  # noqa: E402

from batchpilot.core import Limits  # noqa: E402
from batchpilot.serving.server.batches.batch import OPEN, Answers, Batch, BatchStore  # noqa: E402
from batchpilot.serving.server.batches.files import FileStore  # noqa: E402
from batchpilot.serving.server.batches.lines import check_lines, read_lines  # noqa: E402
from batchpilot.serving.server.batches.places import Places  # noqa: E402
from batchpilot.serving.server.batches.runner import BatchRunner  # noqa: E402
from batchpilot.serving.server.batches.upload import read_upload  # noqa: E402
from batchpilot.serving.server.gauges import Gauges  # noqa: E402

CHAT = "/v1/chat/completions"


def line(custom_id, url=CHAT, **body):
    asked = {"model": "tiny", "messages": [{"role": "user", "content": f"Say {custom_id}."}], "max_tokens": 4, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": asked}) + "\n"


def client_of(url, key="none"):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60.0)


def uploaded(client, text):
    return client.files.create(file=("requests.jsonl", text.encode()), purpose="batch")


def begun(client, text):
    return client.batches.create(input_file_id=uploaded(client, text).id, endpoint=CHAT, completion_window="24h")


def ended(client, batch, seconds=60.0):
    give_up = time.monotonic() + seconds
    while (now := client.batches.retrieve(batch.id)).status in OPEN:
        assert time.monotonic() < give_up, now
        time.sleep(0.05)
    return now


def lines_of(client, file_id):
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


@pytest.fixture
def batching(runner, tmp_path):
    with serving(runner, batch_folder=tmp_path) as (service, url, _), client_of(url) as client:
        yield service, client


def test_every_request_of_a_file_has_its_answer_in_one_of_two_files(batching):
    _, client = batching
    text = "".join(line(f"r{number}") for number in range(12)) + "\n" + line("wrong", model="another")
    batch = client.batches.create(
        input_file_id=uploaded(client, text).id, endpoint=CHAT, completion_window="24h", metadata={"of": "a test"}
    )
    assert (batch.status, batch.object, batch.metadata) == ("validating", "batch", {"of": "a test"})
    done = ended(client, batch)
    assert done.status == "completed"
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (13, 12, 1)
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at < done.expires_at
    answers = {told["custom_id"]: told for told in lines_of(client, done.output_file_id)}
    assert set(answers) == {f"r{number}" for number in range(12)}
    body = answers["r3"]["response"]["body"]
    assert (answers["r3"]["response"]["status_code"], body["usage"]["completion_tokens"]) == (200, 4)
    (failure,) = lines_of(client, done.error_file_id)
    assert (failure["custom_id"], failure["response"]["status_code"]) == ("wrong", 404)
    assert [one.id for one in client.batches.list(limit=1)] == [batch.id]
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"


def test_what_is_wrong_with_a_file_is_told_by_line_and_nothing_is_run(batching):
    service, client = batching
    text = line("a") + "nonsense\n" + line("a") + line("b", url="/v1/embeddings") + line("c", stream=True)
    failed = ended(client, begun(client, text))
    assert failed.status == "failed"
    assert [(problem.line, problem.code) for problem in failed.errors.data] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "invalid_url"),
        (5, "invalid_request"),
    ]
    assert failed.output_file_id is None
    assert service.engine.open == 0


def test_a_batch_that_is_cancelled_keeps_what_was_answered(batching):
    service, client = batching
    batch = begun(client, "".join(line(f"r{number}", max_tokens=200) for number in range(200)))
    wait_for(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 1, 60)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    done = ended(client, batch)
    assert done.status == "cancelled"
    assert 1 <= len(lines_of(client, done.output_file_id)) == done.request_counts.completed < 200
    assert service.engine.open == 0, "nothing of it is left in the engine"
    with pytest.raises(openai.ConflictError, match="cannot be cancelled"):
        client.batches.cancel(batch.id)


def test_a_server_that_is_started_again_goes_on_and_asks_nothing_twice(runner, tmp_path):
    text = "".join(line(f"r{number}", max_tokens=150) for number in range(150))
    with serving(runner, batch_folder=tmp_path) as (service, url, server), client_of(url) as client:
        batch = begun(client, text)
        wait_for(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 3, 60)
        server.should_exit = True
    assert service.engine.open == 0, "its end waits for no batch"
    (kept,) = (tmp_path / "batches").glob("*.output")
    before = [json.loads(told) for told in kept.read_bytes().splitlines()]
    assert 3 <= len(before) < 150
    with kept.open("ab") as file:
        file.write(b'{"id": "batch_req_r9", "custom_id": "r')
    with serving(runner, batch_folder=tmp_path) as (_, url, _), client_of(url) as client:
        done = ended(client, batch)
        answers = lines_of(client, done.output_file_id)
    assert (done.status, done.request_counts.completed) == ("completed", 150)
    assert sorted(told["custom_id"] for told in answers) == sorted(f"r{number}" for number in range(150))
    assert answers[: len(before)] == before


def test_whoever_asks_meanwhile_is_answered_first(runner, tmp_path):
    with serving(runner, tuner="static-8", batch_folder=tmp_path) as (_, url, _), client_of(url) as client:
        batch = begun(client, "".join(line(f"r{number}", max_tokens=400) for number in range(60)))
        wait_for(lambda: client.batches.retrieve(batch.id).status == "in_progress", 60)
        for _ in range(5):
            client.completions.create(model="tiny", prompt="x", max_tokens=8)
        there = client.batches.retrieve(batch.id)
        assert there.request_counts.completed < 60, "the batch has not ended before them"
        client.batches.cancel(batch.id)
        ended(client, batch)


def test_what_cannot_be_is_refused_by_name(batching):
    _, client = batching
    with pytest.raises(openai.BadRequestError, match="purpose must be 'batch'"):
        client.files.create(file=("x.jsonl", b"{}"), purpose="assistants")
    for name in ("file-none", "../../etc/passwd", ".."):
        with pytest.raises(openai.NotFoundError):
            client.batches.create(input_file_id=name, endpoint=CHAT, completion_window="24h")
    file = uploaded(client, line("a"))
    for change in ({"endpoint": "/v1/embeddings"}, {"completion_window": "25h"}):
        asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **change}
        with pytest.raises(openai.BadRequestError, match=next(iter(change))):
            client.batches.create(**asked)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)


def test_a_file_that_a_batch_needs_stays(batching):
    _, client = batching
    batch = begun(client, "".join(line(f"r{number}", max_tokens=300) for number in range(50)))
    with pytest.raises(openai.ConflictError, match="needs the file"):
        client.files.delete(batch.input_file_id)
    client.batches.cancel(batch.id)
    ended(client, batch)
    assert client.files.delete(batch.input_file_id).deleted


def test_it_is_the_same_behind_a_process_for_http(runner, tmp_path):
    with serving(runner, apart=True, batch_folder=tmp_path) as (_, url, _), client_of(url) as client:
        done = ended(client, begun(client, "".join(line(f"r{number}") for number in range(5))))
        assert (done.status, len(lines_of(client, done.output_file_id))) == ("completed", 5)


def test_with_a_token_files_are_for_whoever_has_it(runner, tmp_path):
    token = "a token of some length"
    with serving(runner, batch_folder=tmp_path, token=token) as (_, url, _):
        with client_of(url) as stranger, pytest.raises(openai.PermissionDeniedError):
            stranger.files.list()
        with client_of(url, token) as client:
            assert ended(client, begun(client, line("a"))).status == "completed"


def test_without_a_folder_there_is_no_such_api(server, client):
    with pytest.raises(openai.NotFoundError):
        client.files.list()


def test_what_is_late_is_told_so(tmp_path):
    files, batches = FileStore(tmp_path / "files"), BatchStore(tmp_path / "batches")
    file = files.add((line("a") + line("b")).encode(), "requests.jsonl", "batch")
    batches.keep(Batch("batch_late", CHAT, file.id, "1h", created_at=1000, expires_at=4600))
    batches.answers(batches.find("batch_late"))[0].add("a", {"status_code": 200, "request_id": "x", "body": {}})
    places = Places(lambda: Limits(8), lambda: Gauges(0, 0, 0, 0.0))

    async def run():
        running = asyncio.ensure_future(BatchRunner(files, batches, None, places, clock=lambda: 5000.0).run())
        while batches.find("batch_late").open:
            await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(asyncio.wait_for(run(), 30))
    batch = BatchStore(tmp_path / "batches").find("batch_late")
    assert (batch.status, batch.total, batch.completed, batch.failed) == ("expired", 2, 1, 1)
    told = json.loads(files.path(batch.error_file_id).read_text())
    assert (told["custom_id"], told["response"], told["error"]["code"]) == ("b", None, "batch_expired")


@pytest.mark.parametrize(
    ("running", "waiting", "own", "free", "wanted"),
    [
        (0, 0, 0, 7, 0),  # alone: all places but one
        (7, 0, 7, 0, 0),
        (1, 0, 0, 4, 0),  # beside one interactive: half
        (8, 0, 4, 0, 0),
        (8, 3, 7, 0, 3),  # three wait: as many go
        (8, 1, 7, 0, 3),  # and back to half
        (8, 9, 0, 0, 0),  # none of theirs to give
    ],
)
def test_batches_take_what_is_free_and_give_it_back(running, waiting, own, free, wanted):
    places = Places(lambda: Limits(8), lambda: Gauges(running, waiting, 0, 0.0))
    assert (places.free(own), places.wanted(own)) == (free, wanted)


def test_one_place_is_a_batchs_while_nobody_else_is_there():
    assert Places(lambda: Limits(1), lambda: Gauges(0, 0, 0, 0.0)).free(0) == 1


def test_requests_go_below_everything_whatever_they_ask_for(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text(line("a", priority="high", slo="realtime", ttft_ms=1.0, stream=False, seed=7))
    assert check_lines(path, CHAT) == (1, [])
    (asked,) = read_lines(path)
    body = json.loads(asked.body)
    assert (body["priority"], body["slo"], body["seed"]) == ("low", "batch", 7)
    assert "ttft_ms" not in body


def test_half_an_answer_is_cut_off(tmp_path):
    answers = Answers(tmp_path / "a.output")
    answers.add("one", {"status_code": 200})
    whole = answers.take()
    for cut in range(1, len(whole)):
        (tmp_path / "a.output").write_bytes(whole + whole[:-cut])
        again = Answers(tmp_path / "a.output")
        assert again.custom_ids == {"one"}
        assert again.take() == whole


def test_a_file_that_lost_its_content_or_its_half_is_not_listed(tmp_path):
    files = FileStore(tmp_path)
    kept, lost, torn = (files.add(b"x\n", "a.jsonl", "batch") for _ in range(3))
    files.path(lost.id).unlink()
    (tmp_path / f"{torn.id}.json").write_text('{"id": "file-')
    assert [file.id for file in FileStore(tmp_path).all()] == [kept.id]


@pytest.mark.parametrize("content", [b"a\nb\n", b"\r\n--not-the-boundary\r\n", "ü€\n".encode(), b"", bytes(range(256))])
def test_a_form_is_read_byte_for_byte(content):
    parts = b'--XX\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    parts += b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n'
    parts += b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--XX--\r\n"
    form = read_upload("multipart/form-data; boundary=XX", parts)
    assert (form.content, form.filename, form.fields) == (content, "a.jsonl", {"purpose": "batch"})
    for kind, body in (("application/json", b"{}"), ("multipart/form-data; boundary=YY", parts)):
        with pytest.raises(ValueError, match="form"):
            read_upload(kind, body)
