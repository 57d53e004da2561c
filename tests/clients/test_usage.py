"""Every call that reached Bedrock has one usage record, and its tokens are those that Bedrock reported."""

from __future__ import annotations

import contextlib
import json
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

import proxy
from proxy import ARN, CLAUDE, FOUNDATION, NEW_CLAUDE, messages_body, request_id, said

NOVA, LLAMA = "amazon.nova-lite-v1:0", "us.meta.llama3-3-70b-instruct-v1:0"
TITAN, MISTRAL = "amazon.titan-text-express-v1", "mistral.mistral-7b-instruct-v0:2"
COHERE, DEEPSEEK, JAMBA = "cohere.command-r-v1:0", "us.deepseek.r1-v1:0", "ai21.jamba-1-5-large-v1:0"
EMBEDDINGS, COHERE_EMBED = "amazon.titan-embed-text-v2:0", "cohere.embed-english-v3"


@dataclass(frozen=True)
class Call:
    """A call, and how its record says that it ended."""

    operation: str
    model: str
    given: Any
    stop_reason: str | None = None
    outcome: str = "success"


def invokes(model: str, body: Any, stop_reason: str | None) -> dict[str, Call]:
    """The same request, whole and streamed."""
    return {operation: Call(operation, model, body, stop_reason) for operation in ("invoke", "invoke_stream")}


def converses(model: str, request: Any, stop_reason: str | None) -> dict[str, Call]:
    return {name: Call(name, model, request, stop_reason) for name in ("converse", "converse_stream")}


def claude(text: str, **members: Any) -> dict[str, Any]:
    return json.loads(messages_body(text, **members))


def cached(**ttl: str) -> dict[str, Any]:
    """A system prompt for the cache that no other call has; each streamed twin reads what was written."""
    text = f"{uuid.uuid4()} {'long ' * 1000}"
    return {"system": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"} | ttl}]}


TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
CACHE_POINT = [{"text": f"{uuid.uuid4()} {'long ' * 1000}"}, {"cachePoint": {"type": "default"}}]
GROUPS = {
    "claude": invokes(CLAUDE, claude("Hi"), "end_turn"),
    "arn": invokes(ARN, claude("Hi"), "end_turn"),
    "limit": invokes(CLAUDE, claude("Hi", max_tokens=3), "max_tokens"),
    "thinking": invokes(CLAUDE, claude("@sim:thinking"), "end_turn"),
    "tools": invokes(CLAUDE, claude("@sim:tools", tools=[TOOL]), "tool_use"),
    "cache": invokes(CLAUDE, claude("Hi", **cached()), "end_turn"),
    "cache-1h": invokes(NEW_CLAUDE, claude("Hi", **cached(ttl="1h")), "end_turn"),
    "several-deltas": invokes(CLAUDE, claude("@sim:multidelta"), "end_turn"),
    "cache-only-at-start": invokes(CLAUDE, claude("@sim:cacheonlystart"), "end_turn"),
    "cache-only-at-stop": invokes(CLAUDE, claude("@sim:cacheonlystop"), "end_turn"),
    "metrics-alone": invokes(CLAUDE, claude("@sim:metricsonly"), "end_turn"),
    "metrics-only": invokes(CLAUDE, claude("@sim:metricsonly only=1"), "end_turn"),
    "large": invokes(CLAUDE, claude("@sim:large kb=512"), "end_turn"),
    "large-frame": invokes(CLAUDE, claude("@sim:oneframe kb=512"), "end_turn"),
    "byte-by-byte": invokes(CLAUDE, claude("@sim:stream events=20 split=1"), "end_turn"),
    "nova": invokes(NOVA, {"messages": said("Hi")}, "end_turn"),
    "llama": invokes(LLAMA, {"prompt": "Hi"}, "stop"),
    "titan": invokes(TITAN, {"inputText": "Hi"}, "FINISH"),
    "mistral": invokes(MISTRAL, {"prompt": "Hi"}, "stop"),
    "cohere": invokes(COHERE, {"message": "Hi"}, "COMPLETE"),
    "deepseek": invokes(DEEPSEEK, {"prompt": "Hi"}, "stop"),
    "jamba": invokes(JAMBA, {"messages": [{"role": "user", "content": "Hi"}]}, "stop"),
    "conversation": converses(CLAUDE, {"messages": said("Hi")}, "end_turn"),
    "conversation-arn": converses(ARN, {"messages": said("Hi")}, "end_turn"),
    "conversation-thinking": converses(CLAUDE, {"messages": said("@sim:thinking")}, "end_turn"),
    "conversation-cache": converses(CLAUDE, {"messages": said("Hi"), "system": CACHE_POINT}, "end_turn"),
    "conversation-llama": converses(LLAMA, {"messages": said("Hi")}, "end_turn"),
}
CALLS = {f"{group}-{name}": call for group, calls in GROUPS.items() for name, call in calls.items()}
CALLS |= {
    "embeddings": Call("invoke", EMBEDDINGS, {"inputText": "Hi"}),
    "cohere-embeddings": Call("invoke", COHERE_EMBED, {"texts": ["Hi"], "input_type": "search_query"}),
}


# Calls that have no tokens, or do not end well.
ENDINGS = {
    "count": Call("count_tokens", FOUNDATION, {"converse": {"messages": said("Hi")}}),
    "throttled": Call("converse", CLAUDE, {"messages": said("@sim:throttle")}, outcome="upstream_error"),
    "throttled-stream": Call(
        "converse_stream", CLAUDE, {"messages": said("@sim:throttle")}, outcome="upstream_error"
    ),
    "refused": Call("invoke", CLAUDE, {"anthropic_version": "bedrock-2023-05-31"}, outcome="upstream_error"),
    "exception": Call("invoke_stream", CLAUDE, claude("@sim:exception after=5"), outcome="upstream_error"),
    "error-frame": Call("invoke_stream", CLAUDE, claude("@sim:errorframe after=5"), outcome="upstream_error"),
    "cut": Call("invoke_stream", CLAUDE, claude("@sim:cut after=5"), outcome="upstream_cut"),
    "cut-clean": Call("invoke_stream", CLAUDE, claude("@sim:cut_clean after=5"), outcome="upstream_cut"),
    "cut-boundary": Call(
        "invoke_stream", CLAUDE, claude("@sim:cut_boundary after=5"), outcome="upstream_cut"
    ),
    "damaged": Call("invoke_stream", CLAUDE, claude("@sim:badcrc after=5"), outcome="upstream_cut"),
    "no-usage": Call("invoke", CLAUDE, claude("@sim:nousage"), "end_turn"),
    "no-usage-stream": Call("invoke_stream", CLAUDE, claude("@sim:nousage"), "end_turn"),
    "nonsense": Call("invoke", CLAUDE, claude("@sim:nonsense"), "end_turn"),
    "nonsense-stream": Call("invoke_stream", CLAUDE, claude("@sim:nonsense"), "end_turn"),
}


def make(bedrock: Any, call: Call) -> str:
    """Makes a call, reads all of its answer, and says which id Bedrock gave it."""
    body = {"modelId": call.model, "body": json.dumps(call.given)}
    with contextlib.suppress(Exception):  # the record tells how it ended
        match call.operation:
            case "invoke":
                bedrock.invoke_model(**body)["body"].read()
            case "invoke_stream":
                list(bedrock.invoke_model_with_response_stream(**body)["body"])
            case "converse":
                bedrock.converse(modelId=call.model, **call.given)
            case "converse_stream":
                list(bedrock.converse_stream(modelId=call.model, **call.given)["stream"])
            case "count_tokens":
                bedrock.count_tokens(modelId=call.model, input=call.given)
    return proxy.ledger()[-1]["request_id"]


@pytest.fixture(scope="module")
def recorded(bedrock) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """What Bedrock saw and what was recorded of each call. The calls are all made before the first
    record is looked for, so that the wait for the last batch is one wait."""
    ids = {name: make(bedrock, call) for name, call in (CALLS | ENDINGS).items()}

    def find() -> dict[str, dict[str, Any]] | None:
        rows = proxy.usage_rows(proxy.env("PROXY_KEY"))
        return rows if rows.keys() >= set(ids.values()) else None

    rows = proxy.eventually(find, "the usage records of all calls")
    return {name: (proxy.arrived(used), rows[used]) for name, used in ids.items()}


@pytest.mark.parametrize("name", CALLS)
def test_the_tokens_are_those_that_bedrock_reported(recorded, name):
    arrived, row = recorded[name]

    assert proxy.recorded(row) == arrived["usage"]
    assert row["total_tokens"] == sum(arrived["usage"].values())
    assert not row["estimated"]


@pytest.mark.parametrize("name", CALLS)
def test_a_record_says_what_was_called_and_how_it_ended(recorded, name):
    call, (_, row) = CALLS[name], recorded[name]

    described = {
        "endpoint_type": "bedrock",
        "operation": call.operation,
        "model_requested": call.model,
        "model_id": call.model,
        "region": "us-east-1",
        "streamed": call.operation.endswith("_stream"),
        "outcome": "success",
        "success": True,
        "status": 200,
        "error_code": None,
        "stop_reason": call.stop_reason,
        "upstream_attempts": 1,
    }
    assert {name: row[name] for name in described} == described
    assert 0 <= row["time_to_first_byte_ms"] <= row["response_time_ms"]


def test_what_one_call_writes_into_the_cache_the_next_one_reads(recorded):
    for name in ["cache", "cache-1h"]:
        _, written = recorded[f"{name}-invoke"]
        _, read = recorded[f"{name}-invoke_stream"]

        assert written["cache_write_tokens"] == read["cache_read_tokens"] > 1000
        assert written["cache_write_1h_tokens"] == (written["cache_write_tokens"] if "1h" in name else 0)
        assert not read["cache_write_tokens"]


COUNTS = [
    "input_tokens",
    "output_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "total_tokens",
]


@pytest.mark.parametrize("name", ENDINGS)
def test_every_ending_has_its_outcome(recorded, name):
    call, (arrived, row) = ENDINGS[name], recorded[name]

    assert (row["operation"], row["model_id"]) == (call.operation, call.model)
    assert (row["outcome"], row["success"]) == (call.outcome, call.outcome == "success")
    assert (row["status"], row["stop_reason"]) == (arrived["status"], call.stop_reason)
    assert (row["error_code"] is None) == (call.outcome == "success")


def test_counting_tokens_uses_none_and_costs_nothing(recorded):
    _, row = recorded["count"]

    assert [row[name] for name in COUNTS] == [None] * 6
    assert row["cost_usd"] == "0.000000000"
    assert not row["estimated"]


@pytest.mark.parametrize("name", ["throttled", "throttled-stream", "refused"])
def test_a_call_that_bedrock_refused_used_nothing(recorded, name):
    _, row = recorded[name]

    assert [row[name] for name in COUNTS] == [None] * 6
    assert row["error_code"] in {"ThrottlingException", "ValidationException"}
    assert row["error_message"]
    assert not row["estimated"]


@pytest.mark.parametrize("name", ["exception", "error-frame", "cut", "cut-clean", "cut-boundary", "damaged"])
def test_a_stream_that_ended_badly_has_the_tokens_reported_until_then(recorded, name):
    arrived, row = recorded[name]

    assert row["input_tokens"] == arrived["usage"]["input"]
    assert row["estimated"]


@pytest.mark.parametrize("name", ["no-usage", "no-usage-stream", "nonsense", "nonsense-stream"])
def test_tokens_that_nobody_reported_are_not_made_up(recorded, name):
    _, row = recorded[name]

    assert [row[name] for name in COUNTS] == [None] * 6
    assert row["cost_usd"] is None
    assert row["estimated"]


def test_a_client_that_hangs_up_is_recorded_with_what_was_reported_until_then(bedrock):
    body = messages_body("@sim:stream events=400 delay_ms=10")
    answer = bedrock.invoke_model_with_response_stream(modelId=CLAUDE, body=body)
    next(iter(answer["body"]))

    answer["body"].close()

    arrived = proxy.arrived(request_id(answer))
    row = proxy.usage_row(proxy.env("PROXY_KEY"), request_id(answer))
    assert (arrived["aborted"], arrived["finished"]) == (True, False)
    assert (row["outcome"], row["success"], row["estimated"]) == ("client_disconnect", False, True)
    assert row["input_tokens"] == arrived["usage"]["input"]


# Whose records


def test_the_token_of_a_person_shows_the_records_of_their_key(recorded):
    ids = {arrived["request_id"] for arrived, _ in recorded.values()}

    assert proxy.usage_rows(proxy.env("PROXY_TOKEN")).keys() >= ids


def test_nobody_else_sees_them(recorded):
    ids = {arrived["request_id"] for arrived, _ in recorded.values()}

    assert not proxy.usage_rows(proxy.env("PROXY_OTHER_KEY")).keys() & ids


def test_there_is_one_record_a_call(recorded):
    status, page = proxy.usage_page(proxy.env("PROXY_KEY"), limit=500)

    ids = [row["upstream_request_id"] for row in page["records"] if row["upstream_request_id"]]
    assert status == 200
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ["PROXY_REVOKED_KEY", None], ids=["revoked", "unknown"])
def test_a_wrong_key_shows_no_records(name):
    status, page = proxy.usage_page(proxy.env(name) if name else "SSOK_nonsense", limit=1)

    assert (status, page["error"]["code"]) == (401, "unauthorized")
