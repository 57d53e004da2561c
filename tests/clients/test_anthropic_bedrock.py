"""Anthropic's Bedrock client works against the service as it does against Bedrock."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import pytest

import proxy
from proxy import NEW_CLAUDE, REPLY

IDS = [
    pytest.param("anthropic.claude-fable-5-2", id="foundation"),  # no profile of it is known
    pytest.param(NEW_CLAUDE, id="profile"),
    pytest.param(f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{NEW_CLAUDE}", id="profile-arn"),
    pytest.param(
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3d4e5f6",
        id="application-profile-arn",
    ),
]
WEATHER = {
    "name": "weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}


def ask(text: str, **members: Any) -> dict[str, Any]:
    """What every call has."""
    question = {"model": NEW_CLAUDE, "max_tokens": 200, "messages": [{"role": "user", "content": text}]}
    return question | members


def arrived(headers: Any) -> dict[str, int]:
    """The usage that Bedrock reported in the answer with these headers."""
    return proxy.arrived(headers["x-amzn-requestid"])["usage"]


# Answers


@pytest.mark.parametrize("model", IDS)
def test_a_message_is_answered(claude, model):
    answer = claude.messages.with_raw_response.create(**ask("Hi", model=model))
    message = answer.parse()

    call = proxy.arrived(answer.headers["x-amzn-requestid"])
    assert message.content[0].text == f"{REPLY} You said: Hi"
    assert message.stop_reason == "end_turn"
    assert proxy.reported(message.usage) == call["usage"]
    assert (call["operation"], call["model_id"]) == ("invoke", model)


@pytest.mark.parametrize("model", IDS)
def test_a_streamed_message_adds_up(claude, model):
    with claude.messages.stream(**ask("Hi", model=model)) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()

    call = proxy.arrived(stream.response.headers["x-amzn-requestid"])
    assert text == message.content[0].text == f"{REPLY} You said: Hi"
    assert message.stop_reason == "end_turn"
    assert proxy.reported(message.usage) == call["usage"]
    assert (call["operation"], call["model_id"]) == ("invoke-with-response-stream", model)
    assert call["finished"]


def test_a_long_stream_arrives_event_by_event(claude):
    events, times = [], []

    for event in claude.messages.create(**ask("@sim:stream events=30 delay_ms=20"), stream=True):
        events.append(event)
        times.append(time.monotonic())

    deltas = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert "".join(deltas).split() == [f"word{number}" for number in range(1, 31)]
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
    assert times[-1] - times[0] > 0.4


def test_an_older_model_answers_to_the_older_version_of_the_api(claude):
    question = ask("Hi", model=proxy.CLAUDE, extra_body={"anthropic_version": "bedrock-2023-05-31"})

    message = claude.messages.create(**question)

    assert message.content[0].text == f"{REPLY} You said: Hi"


def test_a_streamed_tool_call_has_its_input_and_its_result_is_taken(claude):
    question = ask("@sim:tools", tools=[WEATHER])
    with claude.messages.stream(**question) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        call = stream.get_final_message()
    use = call.content[-1]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "12 degrees"}

    turns = [{"role": "assistant", "content": call.content}, {"role": "user", "content": [result]}]
    answer = claude.messages.create(**question | {"messages": question["messages"] + turns})

    assert call.stop_reason == "tool_use"
    assert (use.type, use.name, use.input) == ("tool_use", "weather", {"city": "simulated", "days": 1})
    assert len(pieces) > 1
    assert json.loads("".join(pieces)) == use.input
    assert proxy.reported(call.usage) == arrived(stream.response.headers)
    assert answer.stop_reason == "end_turn"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_thinking_comes_before_the_text_with_its_signature(claude, streamed):
    question = ask("Hi", thinking={"type": "adaptive"})

    if streamed:
        with claude.messages.stream(**question) as stream:
            thoughts = [event.thinking for event in stream if event.type == "thinking"]
            message = stream.get_final_message()
        assert "".join(thoughts) == message.content[0].thinking
    else:
        message = claude.messages.create(**question)

    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == "This thought is simulated; no model was called."
    assert message.content[0].signature.startswith("simulated")


@pytest.mark.parametrize(("ttl", "part"), [("5m", "cache_write_5m"), ("1h", "cache_write_1h")])
def test_a_cached_prompt_is_written_once_and_read_then(claude, ttl, part):
    # Cached prefixes outlive a test, so each has one of its own.
    prefix = {
        "type": "text",
        "text": f"{uuid.uuid4()} {'long ' * 2000}",
        "cache_control": {"type": "ephemeral", "ttl": ttl},
    }
    question = ask("Hi", system=[prefix])

    first = claude.messages.create(**question)
    with claude.messages.stream(**question) as stream:
        second = stream.get_final_message()

    written, read = proxy.reported(first.usage), proxy.reported(second.usage)
    assert written[part] > 2000
    assert (written["cache_read"], read["cache_read"], read[part]) == (0, written[part], 0)
    assert read == arrived(stream.response.headers)


def test_betas_reach_bedrock_and_its_refusal_comes_back(claude):
    message = claude.beta.messages.create(**ask("Hi"), betas=["compact-2026-01-12"])
    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.beta.messages.create(**ask("Hi"), betas=["files-api-2025-04-14"])

    assert message.content[0].text == f"{REPLY} You said: Hi"
    assert refused.value.body == {"message": "invalid beta flag"}


def test_a_large_answer_arrives_whole(claude):
    whole = claude.messages.create(**ask("@sim:large kb=512"))
    with claude.messages.stream(**ask("@sim:large kb=512")) as stream:
        streamed = stream.get_final_message()

    assert whole.content[0].text == streamed.content[0].text == "simulated " * (512 * 1024 // 10)


def test_a_jwt_is_a_key_too():
    with proxy.claude_client(proxy.env("PROXY_TOKEN")) as claude:
        message = claude.messages.create(**ask("Hi"))

    assert message.content[0].text == f"{REPLY} You said: Hi"


def test_the_asynchronous_client_streams():
    async def text() -> str:
        options = proxy.anthropic_options(proxy.env("PROXY_KEY"))
        async with anthropic.AsyncAnthropicBedrock(**options) as claude:
            async with claude.messages.stream(**ask("Hi")) as stream:
                return "".join([piece async for piece in stream.text_stream])

    assert asyncio.run(text()) == f"{REPLY} You said: Hi"


def test_two_clients_at_the_same_time_get_their_own_answers_and_rows():
    def stream(key: str, words: int) -> tuple[int, str]:
        with proxy.claude_client(key) as claude:
            with claude.messages.stream(**ask(f"@sim:stream events={words} delay_ms=3")) as stream:
                text = stream.get_final_text()
        return len(text.split()), stream.response.headers["x-amzn-requestid"]

    keys = [proxy.env("PROXY_KEY"), proxy.env("PROXY_OTHER_KEY")]
    with ThreadPoolExecutor(2) as threads:
        (mine, my_call), (other, other_call) = threads.map(stream, keys, [100, 120])

    assert (mine, other) == (100, 120)
    assert proxy.usage_row(keys[0], my_call)["output_tokens"] == 100
    assert proxy.usage_row(keys[1], other_call)["output_tokens"] == 120


# Errors


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("ValidationException", 400, anthropic.BadRequestError),
        ("AccessDeniedException", 403, anthropic.PermissionDeniedError),
        ("ResourceNotFoundException", 404, anthropic.NotFoundError),
        ("ModelTimeoutException", 408, anthropic.APIStatusError),
        ("ModelErrorException", 424, anthropic.APIStatusError),
        ("ThrottlingException", 429, anthropic.RateLimitError),
        ("ModelNotReadyException", 429, anthropic.RateLimitError),
        ("ServiceQuotaExceededException", 400, anthropic.BadRequestError),
        ("InternalServerException", 500, anthropic.InternalServerError),
        ("ServiceUnavailableException", 503, anthropic.APIStatusError),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_bedrocks_errors_are_the_sdks_errors(claude, streamed, code, status, error):
    with pytest.raises(error) as raised:
        claude.messages.create(**ask(f"@sim:error code={code}"), stream=streamed)

    response = raised.value.response
    assert raised.value.status_code == response.status_code == status
    assert response.headers["x-amzn-errortype"] == code
    assert raised.value.body["message"]
    assert proxy.arrived(response.headers["x-amzn-requestid"])["status"] == status


def test_retry_after_survives(claude):
    with pytest.raises(anthropic.RateLimitError) as raised:
        claude.messages.create(**ask("@sim:throttle retry_after=7"))

    assert raised.value.response.headers["retry-after"] == "7"
    assert raised.value.body == {"message": "Too many requests, please wait before trying again."}


def test_the_sdks_own_retries_reach_bedrock():
    text = f"{uuid.uuid4()} @sim:throttle"

    with proxy.claude_client(proxy.env("PROXY_KEY"), max_retries=1) as claude:
        with pytest.raises(anthropic.RateLimitError) as raised:
            claude.messages.create(**ask(text))

    last = proxy.arrived(raised.value.response.headers["x-amzn-requestid"])
    same = [call for call in proxy.ledger() if call["body_sha256"] == last["body_sha256"]]
    assert len(same) >= 2


@pytest.mark.parametrize("directive", ["credentials", "error code=ExpiredTokenException"])
def test_trouble_with_the_services_own_credentials_is_not_an_authentication_error(claude, directive):
    with pytest.raises(anthropic.InternalServerError) as raised:
        claude.messages.create(**ask(f"@sim:{directive}"))

    assert raised.value.status_code == 500
    assert "token" not in raised.value.body["message"]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_web_page_in_place_of_an_answer_is_an_unavailable_service(claude, streamed):
    with pytest.raises(anthropic.APIStatusError) as raised:
        claude.messages.create(**ask("@sim:html status=502"), stream=streamed)

    assert raised.value.status_code == 503
    assert raised.value.response.headers["x-amzn-errortype"] == "ServiceUnavailableException"
    assert "<" not in raised.value.body["message"]


@pytest.mark.parametrize("name", ["PROXY_REVOKED_KEY", None], ids=["revoked", "unknown"])
def test_a_wrong_key_is_an_authentication_error(name):
    key = proxy.env(name) if name else "SSOK_nonsense"
    before = len(proxy.ledger())

    with proxy.claude_client(key) as claude, pytest.raises(anthropic.AuthenticationError) as raised:
        claude.messages.create(**ask("Hi"))

    assert raised.value.response.headers["x-amzn-errortype"] == "UnrecognizedClientException"
    assert raised.value.body["message"]
    assert len(proxy.ledger()) == before


def test_a_client_that_signs_with_aws_keys_is_told_what_to_set(monkeypatch):
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    aws = {"aws_access_key": "AKIDEXAMPLE", "aws_secret_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}

    with proxy.claude_client(None, **aws) as claude, pytest.raises(anthropic.PermissionDeniedError) as raised:
        claude.messages.create(**ask("Hi"))

    assert "AWS_BEARER_TOKEN_BEDROCK" in raised.value.body["message"]


@pytest.mark.parametrize(
    "directive",
    [
        "exception after=6",
        "errorframe after=6",
        "cut after=6",
        "cut_clean after=6",
        "cut_boundary after=6",
        "badcrc after=6",
    ],
)
def test_a_stream_that_ends_badly_gives_what_it_had_and_is_an_error(claude, directive):
    received = []

    # What it is depends on the SDK's version and on how the stream ends.
    with pytest.raises(Exception) as raised:
        for event in claude.messages.create(**ask(f"@sim:{directive}"), stream=True):
            received.append(event)

    assert [event.type for event in received[:2]] == ["message_start", "content_block_start"]
    assert len(received) == 6
    if directive.startswith("exception"):
        assert "throttlingException" in str(raised.value)
