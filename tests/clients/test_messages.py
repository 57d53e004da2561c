"""Anthropic's own client works against the service as it does against Anthropic.

Runs with the client's current version, and with the last line before 1.0.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
import urllib.request
import uuid
import zlib
from collections.abc import Callable
from typing import Any

import anthropic
import pytest

import proxy
from proxy import REPLY

MODEL, MODEL_ID = "claude-sonnet-4-5", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NAMES = {
    MODEL: MODEL_ID,
    "claude-sonnet-4-5-20250929": MODEL_ID,
    "claude-sonnet-4-5[1m]": MODEL_ID,
    "claude-haiku-4-5": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "claude-opus-4-8": "us.anthropic.claude-opus-4-8",
    proxy.CLAUDE: proxy.CLAUDE,
    proxy.ON_DEMAND: proxy.ON_DEMAND,
}
LONG = "long " * 1000
THOUGHT = "This thought is simulated; no model was called."
SPOKEN = f"{REPLY} You said: Hi"
WHOLE_OR_STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


def ask(text: str, **members: Any) -> dict[str, Any]:
    """What every call has."""
    return {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": text}]} | members


def weather(**members: Any) -> dict[str, Any]:
    properties = {"city": {"type": "string"}, "days": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["city"]}
    return {"name": "weather", "description": "The weather in a city", "input_schema": schema} | members


def answered(api: Any, question: dict[str, Any], streamed: bool = False) -> tuple[Any, Any]:
    """The message that answers, and its headers. `api` is `client.messages` or `client.beta.messages`."""
    if streamed:
        with api.stream(**question) as stream:
            return stream.get_final_message(), stream.response.headers
    raw = api.with_raw_response.create(**question)
    return raw.parse(), raw.headers


def recorded(headers: Any) -> dict[str, Any]:
    """The usage record of the answer with these headers, once it is held against what Bedrock says."""
    upstream = headers["x-amzn-requestid"]
    row = proxy.usage_row(proxy.env("PROXY_KEY"), upstream)
    assert proxy.recorded(row) == proxy.arrived(upstream)["usage"]
    assert not row["estimated"]
    assert f"req_{row['request_id']}" == headers["request-id"]
    return row


def tokens_of(message: Any, headers: Any) -> dict[str, int]:
    """The tokens of an answer: those that the client saw, Bedrock reported and the service recorded."""
    row, tokens = recorded(headers), proxy.reported(message.usage)
    assert proxy.recorded(row) == tokens
    return tokens


def sent(headers: Any) -> dict[str, Any]:
    """The body that Bedrock got for the answer with these headers."""
    return proxy.sent(headers["x-amzn-requestid"])


def refused(call: Callable[[], Any], error: type[Exception] = anthropic.APIStatusError) -> Any:
    """The error that a call ends in, once it is known to tell its request."""
    with pytest.raises(error) as raised:
        call()
    assert raised.value.request_id == raised.value.body["request_id"]
    assert raised.value.request_id.startswith("req_")
    return raised.value


def row_of(error: Any) -> dict[str, Any]:
    """The usage record of a call that ended in an error."""
    return proxy.own_row(proxy.env("PROXY_KEY"), error.request_id)


def attempts_of(error: Any) -> list[dict[str, Any]]:
    """All of Bedrock's calls with the body of the one that ended in this error."""
    return proxy.alike(proxy.arrived(row_of(error)["upstream_request_id"]))


# Answers


@WHOLE_OR_STREAMED
@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_a_model_is_answered(messages, name, streamed):
    message, headers = answered(messages.messages, ask("Hi", model=name), streamed)

    call, row = proxy.arrived(headers["x-amzn-requestid"]), recorded(headers)
    assert (message.content[0].text, message.stop_reason) == (SPOKEN, "end_turn")
    assert tokens_of(message, headers) == call["usage"]
    operation = ("invoke-with-response-stream", "invoke_stream") if streamed else ("invoke", "invoke")
    assert (call["model_id"], call["operation"], row["operation"]) == (NAMES[name], *operation)
    described = {
        "endpoint_type": "anthropic",
        "model_requested": name,
        "model_id": NAMES[name],
        "region": "us-east-1",
        "streamed": streamed,
        "outcome": "success",
        "status": 200,
        "stop_reason": "end_turn",
        "upstream_attempts": 1,
    }
    assert {name: row[name] for name in described} == described


def test_the_events_of_a_stream_come_in_order(messages):
    stream = messages.messages.create(**ask("@sim:stream events=5"), stream=True)
    events = list(stream)

    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 5,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    assert recorded(stream.response.headers)["output_tokens"] == events[-2].usage.output_tokens == 5


def test_the_text_of_a_stream_arrives_piece_by_piece(messages):
    with messages.messages.stream(**ask("Hi")) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()

    assert len(pieces) > 5
    assert "".join(pieces) == message.content[0].text == SPOKEN


def test_the_asynchronous_client_streams():
    async def text() -> str:
        options = proxy.messages_options(api_key=proxy.env("PROXY_KEY"))
        async with anthropic.AsyncAnthropic(**options) as client:
            async with client.messages.stream(**ask("Hi")) as stream:
                return "".join([piece async for piece in stream.text_stream])

    assert asyncio.run(text()) == SPOKEN


def test_a_tool_call_is_streamed_in_pieces_and_its_result_is_taken(messages):
    question = ask("@sim:tools", tools=[weather()])
    with messages.messages.stream(**question) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        call = stream.get_final_message()
    use = call.content[-1]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "12 degrees"}

    turns = [{"role": "assistant", "content": call.content}, {"role": "user", "content": [result]}]
    answer, headers = answered(messages.messages, question | {"messages": question["messages"] + turns})

    assert call.stop_reason == "tool_use"
    assert (use.type, use.name, use.input) == ("tool_use", "weather", {"city": "simulated", "days": 1})
    assert len(pieces) > 1
    assert json.loads("".join(pieces)) == use.input
    assert tokens_of(call, stream.response.headers)
    assert answer.stop_reason == "end_turn"
    assert tokens_of(answer, headers)


@WHOLE_OR_STREAMED
@pytest.mark.parametrize("asked", ["by the parameter", "by the model"])
def test_a_thought_goes_back_with_its_signature(messages, asked, streamed):
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048}
    question = ask("Hi", **thinking) if asked == "by the parameter" else ask("@sim:thinking")

    first, headers = answered(messages.messages, question, streamed)
    turns = [{"role": "assistant", "content": first.content}, {"role": "user", "content": "And now?"}]
    second, then = answered(messages.messages, question | {"messages": question["messages"] + turns})

    thought = first.content[0]
    assert [block.type for block in first.content] == ["thinking", "text"]
    assert thought.thinking == THOUGHT
    assert thought.signature.startswith("simulated")
    returned = sent(then)["messages"][1]["content"][0]
    assert (returned["thinking"], returned["signature"]) == (THOUGHT, thought.signature)
    assert second.stop_reason == "end_turn"
    assert tokens_of(first, headers)
    assert tokens_of(second, then)


def test_the_pieces_of_a_thought_come_before_its_signature(messages):
    with messages.messages.stream(**ask("@sim:thinking")) as stream:
        events = [event for event in stream if event.type in {"thinking", "signature"}]

    *pieces, signature = events
    assert "".join(piece.thinking for piece in pieces) == THOUGHT
    assert signature.signature.startswith("simulated")


@pytest.mark.parametrize(
    ("tools", "system"),
    [(None, None), ("5m", "5m"), ("1h", "1h"), ("1h", "5m")],
    ids=["default", "5m", "1h", "1h-5m"],
)
def test_a_cached_prompt_is_written_once_and_read_then(messages, tools, system):
    # Cached prefixes outlive a test, so each has one of its own.
    def cached(ttl: str | None) -> dict[str, Any]:
        return {"cache_control": {"type": "ephemeral"} | ({"ttl": ttl} if ttl else {})}

    tool = weather(description=f"{uuid.uuid4()} {LONG}", **cached(tools))
    prompt = {"type": "text", "text": f"{uuid.uuid4()} {LONG}", **cached(system)}
    question = ask("Hi", tools=[tool], system=[prompt])

    written = tokens_of(*answered(messages.messages, question))
    read = tokens_of(*answered(messages.messages, question, streamed=True))

    minutes, hour = written["cache_write_5m"], written["cache_write_1h"]
    assert (minutes > 1000, hour > 1000) == (system != "1h", tools == "1h")
    assert written["cache_read"] == 0
    assert read == written | {"cache_read": minutes + hour, "cache_write_5m": 0, "cache_write_1h": 0}


def test_an_image_arrives_as_it_was(messages):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head, pixel = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0), zlib.compress(b"\0\xff\0\0")
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png).decode()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]

    question = ask("", messages=[{"role": "user", "content": content}])
    message, headers = answered(messages.messages, question)

    assert message.content[0].text.endswith("What is this?")
    assert sent(headers)["messages"][0]["content"] == content
    assert tokens_of(message, headers)


def test_a_large_answer_arrives_whole(messages):
    for streamed in [False, True]:
        message, headers = answered(messages.messages, ask("@sim:large kb=512"), streamed)

        assert message.content[0].text == "simulated " * (512 * 1024 // 10)
        assert tokens_of(message, headers)


# Counting

NO_LIMIT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("api", ["messages", "beta"])
def test_tokens_are_counted_as_they_are_used(messages, api):
    resource = messages.beta.messages if api == "beta" else messages.messages
    question = ask("How many?", system="Be brief.", tools=[weather()])
    message, _ = answered(messages.messages, question)
    del question["max_tokens"]

    raw = resource.with_raw_response.count_tokens(**question)

    row = proxy.usage_row(proxy.env("PROXY_KEY"), raw.headers["x-amzn-requestid"])
    assert raw.parse().input_tokens == message.usage.input_tokens
    described = (row["operation"], row["model_requested"], row["outcome"])
    assert described == ("count_tokens", MODEL, "success")
    assert (row["input_tokens"], row["cost_usd"]) == (None, "0.000000000")


def test_a_model_that_cannot_count_says_so(messages):
    question = NO_LIMIT | {"model": "claude-3-haiku"}

    error = refused(lambda: messages.messages.count_tokens(**question), anthropic.BadRequestError)

    assert error.body["error"]["message"] == "The provided model doesn't support counting tokens."
    assert error.body["error"]["type"] == "invalid_request_error"


# Models


def test_all_pages_of_models_are_the_whole_list(messages):
    whole = messages.models.list(limit=1000)
    ids = [model.id for model in whole]

    pages = [model.id for model in messages.models.list(limit=3)]
    first = messages.models.list(limit=3)
    before = messages.models.list(limit=2, before_id=ids[2])

    assert pages == ids
    assert len(set(ids)) == len(ids) > 6
    assert "claude-sonnet-4-5-20250929" in ids
    assert all(name.startswith("claude") for name in ids)
    assert (whole.has_more, first.has_more) == (False, True)
    assert (len(first.data), first.first_id, first.last_id) == (3, ids[0], ids[2])
    assert [model.id for model in before.data] == ids[:2]


def test_models_are_chosen_by_their_stage_of_life(messages):
    models = messages.models.list(limit=1000).data
    active = messages.models.list(limit=1000, extra_query={"lifecycle": ["active"]}).data

    assert active == [model for model in models if model.lifecycle == "active"]
    assert active


@pytest.mark.parametrize("name", [MODEL, "claude-sonnet-4-5-20250929", "claude-sonnet-4-5[1m]"])
def test_a_model_has_many_names_and_one_id(messages, name):
    model = messages.models.retrieve(name)

    assert (model.type, model.id) == ("model", "claude-sonnet-4-5-20250929")
    assert model.display_name == "Claude Sonnet 4.5"
    assert model.created_at.isoformat() == "2025-09-29T00:00:00+00:00"


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: client.messages.create(**ask("Hi")), id="create"),
        pytest.param(lambda client: client.messages.count_tokens(**NO_LIMIT), id="count"),
        pytest.param(lambda client: client.models.retrieve(MODEL), id="model"),
        pytest.param(lambda client: client.models.list(), id="models"),
    ],
)
def test_every_answer_says_which_request_it_is_for(messages, call):
    assert call(messages)._request_id.startswith("req_")


def test_every_listed_model_can_be_retrieved(messages):
    for model in messages.models.list(limit=1000).data:
        assert messages.models.retrieve(model.id) == model


# What Bedrock has not


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: client.models.retrieve("claude-nonsense"), id="model"),
        pytest.param(lambda client: client.messages.create(**ask("Hi", model="nonsense")), id="message"),
        pytest.param(lambda client: client.messages.batches.list(), id="batches"),
    ],
)
def test_what_there_is_not_is_not_found(messages, call):
    before = len(proxy.ledger())

    error = refused(lambda: call(messages), anthropic.NotFoundError)

    assert error.body["error"]["type"] == "not_found_error"
    assert len(proxy.ledger()) == before


# Credentials


@pytest.mark.parametrize("credential", ["PROXY_KEY", "PROXY_TOKEN"])
@pytest.mark.parametrize("style", ["api_key", "auth_token", "x-api-key", "both"])
def test_a_credential_is_taken_in_every_style(style, credential):
    value = proxy.env(credential)
    headers = {"X-Api-Key": value, "Authorization": f"Bearer {value}"}
    styles = {
        "api_key": {"api_key": value},
        "auth_token": {"auth_token": value},
        "x-api-key": {"api_key": value, "default_headers": headers | {"Authorization": anthropic.Omit()}},
        "both": {"api_key": value, "default_headers": headers},
    }

    with proxy.messages_client(**styles[style]) as client:
        message = client.messages.create(**ask("Hi"))

    assert message.content[0].text == SPOKEN


@WHOLE_OR_STREAMED
@pytest.mark.parametrize("key", ["revoked", "unknown"])
def test_a_wrong_key_is_an_authentication_error(key, streamed):
    credential = proxy.env("PROXY_REVOKED_KEY") if key == "revoked" else "SSOK_nonsense"
    before = len(proxy.ledger())

    with proxy.messages_client(api_key=credential) as client:
        create = client.messages.create
        error = refused(lambda: create(**ask("Hi"), stream=streamed), anthropic.AuthenticationError)

    assert (error.status_code, error.body["error"]["type"]) == (401, "authentication_error")
    assert len(proxy.ledger()) == before


def test_two_credentials_that_differ_are_refused():
    key, other = proxy.env("PROXY_KEY"), proxy.env("PROXY_OTHER_KEY")
    both = {"X-Api-Key": other, "Authorization": f"Bearer {key}"}

    with proxy.messages_client(api_key=key, default_headers=both) as client:
        error = refused(lambda: client.messages.create(**ask("Hi")), anthropic.BadRequestError)

    assert "Authorization" in error.body["error"]["message"]
    assert "X-Api-Key" in error.body["error"]["message"].title()


# Errors

OVERLOADED = (529, anthropic.OverloadedError, "overloaded_error")
FAILED = (500, anthropic.InternalServerError, "api_error")
# What is asked for, what becomes of it, and words of the message.
ERRORS = {
    "error code=ValidationException": (
        (400, anthropic.BadRequestError, "invalid_request_error"),
        "Simulated ValidationException from Bedrock.",
    ),
    "error code=AccessDeniedException": (
        (403, anthropic.PermissionDeniedError, "permission_error"),
        "is not authorized to perform: bedrock:InvokeModel",
    ),
    "error code=ResourceNotFoundException": (
        (404, anthropic.NotFoundError, "not_found_error"),
        "The specified resource ARN was not found.",
    ),
    "error code=ServiceQuotaExceededException": (
        (429, anthropic.RateLimitError, "rate_limit_error"),
        "Simulated ServiceQuotaExceededException from Bedrock.",
    ),
    "throttle": (
        (429, anthropic.RateLimitError, "rate_limit_error"),
        "Too many requests, please wait before trying again.",
    ),
    "error code=ModelErrorException": (
        (400, anthropic.BadRequestError, "invalid_request_error"),
        "Simulated ModelErrorException from Bedrock.",
    ),
    "error code=ModelStreamErrorException": (FAILED, "Simulated"),
    "error code=InternalServerException": (FAILED, "Simulated InternalServerException from Bedrock."),
    "credentials": (FAILED, "The service cannot use Bedrock at the moment."),
    "error code=ExpiredTokenException": (FAILED, "The service cannot use Bedrock at the moment."),
    "error code=ModelTimeoutException": (
        (504, getattr(anthropic, "GatewayTimeoutError", anthropic.InternalServerError), "timeout_error"),
        "Simulated ModelTimeoutException from Bedrock.",
    ),
    "error code=ServiceUnavailableException": (OVERLOADED, "The service isn't currently available."),
    "error code=ModelNotReadyException": (OVERLOADED, "The model is not ready to serve inference requests."),
    "html status=502": (OVERLOADED, "Bedrock could not be reached"),
    "html status=200": (OVERLOADED, "Bedrock could not be reached"),
    "reset": (OVERLOADED, "Bedrock could not be reached"),
}


@WHOLE_OR_STREAMED
@pytest.mark.parametrize("directive", ERRORS)
def test_bedrocks_errors_are_the_sdks_errors(messages, directive, streamed):
    (status, kind, name), words = ERRORS[directive]
    text = f"{uuid.uuid4()} @sim:{directive}"

    error = refused(lambda: messages.messages.create(**ask(text), stream=streamed), kind)

    row = row_of(error)
    assert (error.status_code, error.body["type"], error.body["error"]["type"]) == (status, "error", name)
    assert words in error.body["error"]["message"]
    assert "123456789012" not in error.body["error"]["message"]
    assert "<" not in error.body["error"]["message"]
    assert (row["outcome"], row["success"], row["total_tokens"]) == ("upstream_error", False, None)
    assert row["error_code"]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (ask("Hi", messages=[]), "messages: at least one message is required"),
        (ask("Hi", max_tokens=-1), "max_tokens"),
        (ask("Hi", tools=[{"type": "web_search_20250305", "name": "web_search"}]), "web_search_20250305"),
    ],
    ids=["messages", "max-tokens", "server-tool"],
)
def test_a_wrong_request_says_what_is_wrong(messages, question, words):
    error = refused(lambda: messages.messages.create(**question), anthropic.BadRequestError)

    assert error.body["error"]["type"] == "invalid_request_error"
    assert words in error.body["error"]["message"]


@WHOLE_OR_STREAMED
def test_a_request_that_is_too_large_is_refused_as_such(messages, streamed):
    question = ask("x" * (10 * 1024 * 1024 + 1), stream=streamed)

    error = refused(lambda: messages.messages.create(**question), anthropic.RequestTooLargeError)

    assert (error.status_code, error.body["error"]["type"]) == (413, "request_too_large")


@WHOLE_OR_STREAMED
def test_retry_after_survives(messages, streamed):
    question = ask("@sim:throttle retry_after=3", stream=streamed)

    error = refused(lambda: messages.messages.create(**question), anthropic.RateLimitError)

    assert error.response.headers["retry-after"] == "3"


# Trying again


def test_a_quota_that_is_used_up_is_not_tried_again(messages):
    client = messages.with_options(max_retries=2)
    question = ask(f"{uuid.uuid4()} @sim:error code=ServiceQuotaExceededException")

    error = refused(lambda: client.messages.create(**question), anthropic.RateLimitError)

    assert error.response.headers["x-should-retry"] == "false"
    assert len(attempts_of(error)) == 1


def test_a_stream_that_fails_at_once_is_an_error_that_is_tried_again(messages):
    client = messages.with_options(max_retries=1)
    question = ask(f"{uuid.uuid4()} @sim:exception after=0 type=throttlingException")

    error = refused(lambda: client.messages.create(**question, stream=True), anthropic.RateLimitError)

    assert (error.status_code, error.body["error"]["type"]) == (429, "rate_limit_error")
    assert len(attempts_of(error)) == 2


@WHOLE_OR_STREAMED
def test_what_fails_twice_succeeds_the_third_time(messages, streamed):
    key = uuid.uuid4().hex
    question = ask(f"@sim:flaky times=2 code=ThrottlingException key={key} retry_after=0")

    message, headers = answered(messages.with_options(max_retries=2).messages, question, streamed)

    calls = proxy.alike(proxy.arrived(headers["x-amzn-requestid"]))
    rows = [proxy.usage_row(proxy.env("PROXY_KEY"), call["request_id"]) for call in calls]
    assert message.stop_reason == "end_turn"
    assert [call["status"] for call in calls] == [429, 429, 200]
    assert [row["outcome"] for row in rows] == ["upstream_error", "upstream_error", "success"]
    assert [row["total_tokens"] is None for row in rows] == [True, True, False]
    assert tokens_of(message, headers)


# Streams that end otherwise


@pytest.mark.parametrize(
    ("directive", "kind", "outcome"),
    [
        ("exception after=3 type=throttlingException", "rate_limit_error", "upstream_error"),
        ("exception after=3 type=serviceUnavailableException", "overloaded_error", "upstream_error"),
        ("exception after=3 type=modelTimeoutException", "timeout_error", "upstream_error"),
        ("exception after=3 type=internalServerException", "api_error", "upstream_error"),
        ("exception after=3 type=validationException", "invalid_request_error", "upstream_error"),
        ("errorframe after=3", None, "upstream_error"),
        ("cut after=3", "api_error", "upstream_cut"),
        ("cut_clean after=3", "api_error", "upstream_cut"),
        ("cut_boundary after=3", "api_error", "upstream_cut"),
        ("badcrc after=3", "api_error", "upstream_cut"),
    ],
)
def test_a_stream_that_ends_badly_gives_what_it_had_and_is_an_error(messages, directive, kind, outcome):
    pieces = []

    with pytest.raises(anthropic.APIStatusError) as raised:
        with messages.messages.stream(**ask(f"@sim:{directive}")) as stream:
            for piece in stream.text_stream:
                pieces.append(piece)

    upstream = stream.response.headers["x-amzn-requestid"]
    call, row = proxy.arrived(upstream), proxy.usage_row(proxy.env("PROXY_KEY"), upstream)
    assert pieces == ["This "]
    assert (raised.value.status_code, raised.value.body["type"]) == (200, "error")
    assert kind in {None, raised.value.body["error"]["type"]}
    assert raised.value.body["error"]["message"]
    assert (row["outcome"], row["success"], row["estimated"]) == (outcome, False, True)
    assert row["input_tokens"] == call["usage"]["input"]


def test_a_client_that_leaves_ends_the_call(messages):
    stream = messages.messages.create(**ask("@sim:stream events=2000 delay_ms=5"), stream=True)
    next(iter(stream))
    upstream = stream.response.headers["x-amzn-requestid"]

    stream.close()

    call = proxy.arrived(upstream, seconds=2)
    row = proxy.usage_row(proxy.env("PROXY_KEY"), upstream)
    assert (call["aborted"], call["finished"]) == (True, False)
    assert (row["outcome"], row["success"], row["estimated"]) == ("client_disconnect", False, True)
    assert row["input_tokens"] == call["usage"]["input"]


@pytest.mark.parametrize(
    ("directive", "streamed"),
    [("slow delay_ms=20000", False), ("slow delay_ms=20000", True), ("late delay_ms=20000", True)],
    ids=["whole", "streamed", "after-the-head"],
)
def test_a_client_that_gives_up_before_the_answer_ends_the_call(messages, directive, streamed):
    # There is no answer to tell the request's id, so the client chooses it.
    request_id, before = str(uuid.uuid4()), len(proxy.ledger())
    question = ask(f"@sim:{directive}", extra_headers={"x-request-id": request_id})

    with pytest.raises(anthropic.APITimeoutError):
        messages.with_options(timeout=0.5).messages.create(**question, stream=streamed)

    [started] = proxy.ledger()[before:]
    call = proxy.arrived(started["request_id"], seconds=2)
    row = proxy.own_row(proxy.env("PROXY_KEY"), f"req_{request_id}")
    assert (call["aborted"], call["finished"]) == (True, False)
    assert (row["outcome"], row["success"], row["total_tokens"]) == ("client_disconnect", False, None)


# Betas and members that Bedrock has not


@WHOLE_OR_STREAMED
def test_context_is_managed_as_far_as_bedrock_can(messages, streamed):
    edits = [{"type": "clear_thinking_20251015"}, {"type": "clear_tool_uses_20250919"}]
    managed = {"betas": ["context-management-2025-06-27"], "context_management": {"edits": edits}}

    message, headers = answered(messages.beta.messages, ask("Hi", **managed), streamed)

    body = sent(headers)
    assert body["context_management"] == {"edits": edits[1:]}
    assert body["anthropic_beta"] == ["context-management-2025-06-27"]
    assert tokens_of(message, headers)


def test_context_management_that_bedrock_has_nothing_of_goes_with_its_flag(messages):
    edits = {"edits": [{"type": "clear_thinking_20251015"}]}
    question = ask("Hi", betas=["context-management-2025-06-27"], context_management=edits)

    _, headers = answered(messages.beta.messages, question)

    assert sent(headers).keys() & {"context_management", "anthropic_beta"} == set()


def test_an_unknown_beta_is_tried_once_and_left_out_then(messages):
    # What was learned outlives a test, so each has a flag of its own.
    unknown, known = f"totally-new-{uuid.uuid4()}", "interleaved-thinking-2025-05-14"
    question = ask("Hi", betas=[unknown, known])

    first, headers = answered(messages.beta.messages, question)
    second, then = answered(messages.beta.messages, question, streamed=True)

    assert first.content[0].text == second.content[0].text == SPOKEN
    assert [sent(each)["anthropic_beta"] for each in (headers, then)] == [[known]] * 2
    assert [recorded(each)["upstream_attempts"] for each in (headers, then)] == [2, 1]
    assert tokens_of(first, headers)
    assert tokens_of(second, then)


def test_what_one_version_of_the_api_refuses_the_other_keeps(messages):
    question = ask("Hi", model="claude-opus-4-7", extra_body={"temperature": 0.5})

    with contextlib.suppress(anthropic.BadRequestError):
        messages.messages.create(**question, extra_headers={"anthropic-version": "2026-10-21"})
    older = question | {"extra_headers": {"anthropic-version": "2023-06-01"}}
    _, headers = answered(messages.messages, older)

    assert sent(headers)["temperature"] == 0.5


def test_a_long_context_is_asked_for_by_the_name_of_the_model(messages):
    _, headers = answered(messages.messages, ask("Hi", model="claude-sonnet-4-5[1m]"))

    assert sent(headers)["anthropic_beta"] == ["context-1m-2025-08-07"]


def test_what_bedrock_has_not_is_left_out(messages):
    question = ask("Hi", service_tier="auto", metadata={"user_id": "somebody"})

    message, headers = answered(messages.messages, question)

    body = sent(headers)
    assert body["metadata"] == {"user_id": "somebody"}
    assert body.keys() == {"anthropic_version", "max_tokens", "messages", "metadata"}
    assert tokens_of(message, headers)


# Claude Code

CLAUDE_CODE_BETAS = [
    "claude-code-20250219",
    "interleaved-thinking-2025-05-14",
    "fine-grained-tool-streaming-2025-05-14",
    "context-management-2025-06-27",
    "prompt-caching-scope-2026-01-05",
]


def claude_code(prefix: str, session: str) -> dict[str, Any]:
    """A request as Claude Code makes it. The block that says who asks is another one in each."""
    ephemeral = {"cache_control": {"type": "ephemeral"}}
    billing = f"x-anthropic-billing-header: cc_version=2.1.{uuid.uuid4().hex}; cc_entrypoint=cli;"
    read = weather(name="Read", description=prefix)
    tools = [read, weather(name="Bash", eager_input_streaming=True, **ephemeral)]
    return ask(
        "Hi",
        max_tokens=32000,
        system=[
            {"type": "text", "text": billing},
            {"type": "text", "text": f"{prefix} {LONG}", **ephemeral},
        ],
        tools=tools,
        thinking={"type": "enabled", "budget_tokens": 31999},
        metadata={"user_id": json.dumps({"session_id": session})},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        betas=CLAUDE_CODE_BETAS,
        extra_query={"beta": "true"},
        extra_headers={"x-app": "cli", "user-agent": "claude-cli/2.1", "x-claude-code-session-id": session},
    )


def test_claude_code_finds_its_cache_again(messages):
    prefix, session = str(uuid.uuid4()), str(uuid.uuid4())

    first = answered(messages.beta.messages, claude_code(prefix, session), streamed=True)
    second = answered(messages.beta.messages, claude_code(prefix, session), streamed=True)

    body, row = sent(second[1]), recorded(second[1])
    written, read = tokens_of(*first), tokens_of(*second)
    assert written["cache_write_5m"] == read["cache_read"] > 1000
    assert read["cache_write_5m"] == 0
    assert row["client_session_id"] == session
    assert row["cache_read_tokens"] == read["cache_read"]
    assert [block["text"].split()[0] for block in body["system"]] == [prefix]
    assert body["anthropic_beta"] == CLAUDE_CODE_BETAS[1:3]
    assert "context_management" not in body
    assert proxy.arrived(second[1]["x-amzn-requestid"])["raw_path"].count("?") == 0


def test_the_service_answers_at_its_base():
    for path in ["/anthropic", "/anthropic/"]:
        request = urllib.request.Request(proxy.env("PROXY_URL") + path, method="HEAD")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
