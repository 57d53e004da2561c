"""boto3 works against the service as it does against Bedrock."""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.eventstream import ParserError
from botocore.exceptions import ClientError, EventStreamError, HTTPClientError
from urllib3.exceptions import HTTPError

import aws
import proxy
from proxy import ARN, CLAUDE, FOUNDATION, NEW_CLAUDE, ON_DEMAND, REPLY, messages_body, request_id, said

IDS = [
    pytest.param(ON_DEMAND, id="foundation"),
    pytest.param(CLAUDE, id="profile"),
    pytest.param(NEW_CLAUDE, id="no-version"),
    pytest.param(ARN, id="profile-arn"),
    pytest.param(f"arn:aws:bedrock:us-east-1::foundation-model/{ON_DEMAND}", id="foundation-arn"),
    pytest.param(
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3d4e5f6",
        id="application-profile-arn",
    ),
]
STREAMS = ["invoke", "converse"]
GENERATING = ["invoke", "invoke_stream", "converse", "converse_stream"]
OPERATIONS = [*GENERATING, "count_tokens"]
# What boto3 raises for a stream that is damaged or breaks off: an event that says so, a frame that it
# cannot read, or a connection that ends too early.
BROKEN = (EventStreamError, ParserError, HTTPClientError, HTTPError)
OUR_REFUSAL = "UnrecognizedClientException"
MEBIBYTE = 1024 * 1024


def stream(bedrock: Any, kind: str, text: str, model: str = CLAUDE) -> tuple[str, Any]:
    """The request id and the events of a streamed call."""
    if kind == "invoke":
        answer = bedrock.invoke_model_with_response_stream(modelId=model, body=messages_body(text))
        return request_id(answer), answer["body"]
    answer = bedrock.converse_stream(modelId=model, messages=said(text))
    return request_id(answer), answer["stream"]


def decoded(events: Any) -> list[dict[str, Any]]:
    """The model's own events of a streamed InvokeModel."""
    return [json.loads(event["chunk"]["bytes"]) for event in events]


def text_of(events: list[dict[str, Any]]) -> str:
    """The text of Claude's or of Converse's events."""
    deltas = (event.get("delta") or event.get("contentBlockDelta", {}).get("delta", {}) for event in events)
    return "".join(delta.get("text", "") for delta in deltas)


def calls_of(bedrock: Any) -> dict[str, Any]:
    """Each operation as a function of what the user says."""

    def invoke(text: str) -> Any:
        return bedrock.invoke_model(modelId=CLAUDE, body=messages_body(text))

    def invoke_stream(text: str) -> Any:
        return bedrock.invoke_model_with_response_stream(modelId=CLAUDE, body=messages_body(text))

    def converse(text: str) -> Any:
        return bedrock.converse(modelId=CLAUDE, messages=said(text))

    def converse_stream(text: str) -> Any:
        return bedrock.converse_stream(modelId=CLAUDE, messages=said(text))

    def count_tokens(text: str) -> Any:
        return bedrock.count_tokens(modelId=FOUNDATION, input={"converse": {"messages": said(text)}})

    calls = [invoke, invoke_stream, converse, converse_stream, count_tokens]
    return {call.__name__: call for call in calls}


# Answers


@pytest.mark.parametrize("model", IDS)
def test_invoke_model_sends_the_id_and_the_body_as_they_were_given(bedrock, model):
    # Spellings that a decoder and an encoder would not bring back.
    body = (
        b'{ "max_tokens":200,"anthropic_version" : "bedrock-2023-05-31",\n\t"temperature": 1.0e-0,'
        b'"messages":[{"content":"\\u0047r\\u00fc\xc3\x9fe \\/","role":"user"}], "metadata":{}}'
    )

    answer = bedrock.invoke_model(modelId=model, body=body)

    call = proxy.arrived(request_id(answer))
    assert json.loads(answer["body"].read())["content"][0]["text"] == f"{REPLY} You said: Grüße /"
    assert answer["contentType"] == "application/json"
    assert (call["operation"], call["model_id"]) == ("invoke", model)
    assert (call["body_bytes"], call["body_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("model", IDS)
def test_a_streamed_invoke_model_is_read_to_its_last_event(bedrock, model):
    used, events = stream(bedrock, "invoke", "Hi", model)

    events = decoded(events)

    call = proxy.arrived(used)
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    assert text_of(events) == f"{REPLY} You said: Hi"
    assert events[-1]["amazon-bedrock-invocationMetrics"]["outputTokenCount"] == call["usage"]["output"]
    assert (call["operation"], call["model_id"]) == ("invoke-with-response-stream", model)
    assert call["finished"]


@pytest.mark.parametrize("model", IDS)
def test_converse_answers(bedrock, model):
    answer = bedrock.converse(modelId=model, messages=said("Hi"), inferenceConfig={"maxTokens": 50})

    call = proxy.arrived(request_id(answer))
    assert answer["output"]["message"]["content"] == [{"text": f"{REPLY} You said: Hi"}]
    assert answer["stopReason"] == "end_turn"
    assert answer["usage"]["outputTokens"] == call["usage"]["output"]
    assert (call["operation"], call["model_id"]) == ("converse", model)


@pytest.mark.parametrize("model", IDS)
def test_a_converse_stream_is_read_past_message_stop_to_its_usage(bedrock, model):
    used, events = stream(bedrock, "converse", "Hi", model)

    events = list(events)

    call = proxy.arrived(used)
    assert [next(iter(event)) for event in events][-2:] == ["messageStop", "metadata"]
    assert text_of(events) == f"{REPLY} You said: Hi"
    assert events[-1]["metadata"]["usage"]["outputTokens"] == call["usage"]["output"]
    assert (call["operation"], call["model_id"]) == ("converse-stream", model)


@pytest.mark.parametrize("model", [FOUNDATION, f"arn:aws:bedrock:us-east-1::foundation-model/{FOUNDATION}"])
@pytest.mark.parametrize(
    "counted",
    [{"invokeModel": {"body": messages_body("Hello")}}, {"converse": {"messages": said("Hello")}}],
    ids=["invoke", "converse"],
)
def test_count_tokens_counts(bedrock, model, counted):
    answer = bedrock.count_tokens(modelId=model, input=counted)

    call = proxy.arrived(request_id(answer))
    assert answer["inputTokens"] > 0
    assert (call["operation"], call["model_id"], call["status"]) == ("count-tokens", model, 200)


FAMILIES = [
    pytest.param(
        "amazon.nova-lite-v1:0",
        {"messages": said("Hi"), "inferenceConfig": {"maxTokens": 50}},
        lambda reply: reply["output"]["message"]["content"][0]["text"],
        lambda event: event.get("contentBlockDelta", {}).get("delta", {}).get("text", ""),
        id="nova",
    ),
    pytest.param(
        "us.meta.llama3-3-70b-instruct-v1:0",
        {"prompt": "Hi", "max_gen_len": 50},
        lambda reply: reply["generation"],
        lambda event: event["generation"],
        id="llama",
    ),
    pytest.param(
        "amazon.titan-text-express-v1",
        {"inputText": "Hi"},
        lambda reply: reply["results"][0]["outputText"],
        lambda event: event["outputText"],
        id="titan",
    ),
    pytest.param(
        "mistral.mistral-7b-instruct-v0:2",
        {"prompt": "Hi", "max_tokens": 50},
        lambda reply: reply["outputs"][0]["text"],
        lambda event: event["outputs"][0]["text"],
        id="mistral",
    ),
    pytest.param(
        "cohere.command-r-v1:0",
        {"message": "Hi"},
        lambda reply: reply["text"],
        lambda event: event.get("text", ""),
        id="cohere",
    ),
]


@pytest.mark.parametrize(("model", "body", "whole", "piece"), FAMILIES)
def test_other_families_answer_in_their_own_shape(bedrock, model, body, whole, piece):
    body = json.dumps(body)

    answer = bedrock.invoke_model(modelId=model, body=body, contentType="application/json")
    streamed = bedrock.invoke_model_with_response_stream(modelId=model, body=body)

    assert whole(json.loads(answer["body"].read())) == f"{REPLY} You said: Hi"
    assert "".join(piece(event) for event in decoded(streamed["body"])) == f"{REPLY} You said: Hi"


def test_an_embedding_is_answered(bedrock):
    body = json.dumps({"inputText": "Hi"})

    answer = bedrock.invoke_model(modelId="amazon.titan-embed-text-v2:0", body=body)

    assert len(json.loads(answer["body"].read())["embedding"]) == 8


def test_a_tool_call_comes_back_through_converse_with_its_input(bedrock):
    spec = {
        "name": "weather",
        "inputSchema": {"json": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    answer = bedrock.converse_stream(
        modelId=CLAUDE, messages=said("@sim:tools"), toolConfig={"tools": [{"toolSpec": spec}]}
    )

    events = list(answer["stream"])

    deltas = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
    given = "".join(delta["toolUse"]["input"] for delta in deltas if "toolUse" in delta)
    assert json.loads(given) == {"city": "simulated"}
    assert {"messageStop": {"stopReason": "tool_use"}} in events


# Headers and ids


def test_the_id_goes_upstream_as_one_encoded_segment(bedrock):
    answer = bedrock.converse(modelId=ARN, messages=said("Hi"))

    label = ARN.replace(":", "%3A").replace("/", "%2F")
    assert proxy.arrived(request_id(answer))["raw_path"] == f"/model/{label}/converse"


def test_only_headers_that_bedrock_knows_go_upstream(bedrock):
    answer = bedrock.invoke_model(
        modelId=CLAUDE,
        body=messages_body("Hi"),
        serviceTier="flex",
        performanceConfigLatency="optimized",
        trace="ENABLED",
    )

    headers = dict(proxy.arrived(request_id(answer))["received_headers"])
    assert headers.pop("authorization") == "AWS4-HMAC-SHA256 ***"
    options = {name: value for name, value in headers.items() if name.startswith("x-amzn-bedrock-")}
    assert options == {
        "x-amzn-bedrock-performanceconfig-latency": "optimized",
        "x-amzn-bedrock-service-tier": "flex",
        "x-amzn-bedrock-trace": "ENABLED",
    }
    http = {
        "accept",
        "content-length",
        "content-type",
        "date",
        "host",
        "user-agent",
        "x-amz-content-sha256",
        "x-amz-date",
    }
    assert headers.keys() - options.keys() <= http
    assert "boto" not in headers.get("user-agent", "").lower()
    assert (answer["serviceTier"], answer["performanceConfigLatency"]) == ("flex", "optimized")


def test_token_counts_in_headers_reach_the_client(bedrock):
    answer = bedrock.invoke_model(
        modelId="mistral.mistral-7b-instruct-v0:2", body=json.dumps({"prompt": "Hi"})
    )

    usage = proxy.arrived(request_id(answer))["usage"]
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert int(headers["x-amzn-bedrock-input-token-count"]) == usage["input"]
    assert int(headers["x-amzn-bedrock-output-token-count"]) == usage["output"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_request_id_is_bedrocks(bedrock, operation):
    answer = calls_of(bedrock)[operation]("Hi")

    ours, theirs = request_id(answer), proxy.ledger()[-1]["request_id"]
    assert ours == theirs


# Size and time


def test_a_large_answer_arrives_whole(bedrock):
    answer = bedrock.invoke_model(modelId=CLAUDE, body=messages_body("@sim:large kb=2048"))

    text = json.loads(answer["body"].read())["content"][0]["text"]
    assert text == "simulated " * (2048 * 1024 // 10)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("directive", ["@sim:large kb=512", "@sim:oneframe kb=1024"])
def test_a_large_event_arrives_whole(bedrock, kind, directive):
    used, events = stream(bedrock, kind, directive)

    events = decoded(events) if kind == "invoke" else list(events)

    text = text_of(events)
    assert text == ("simulated " * (512 * 1024 // 10) if "large" in directive else REPLY)
    assert proxy.arrived(used)["finished"]


@pytest.mark.parametrize(
    "pieces", ["", " coalesce=1", " split=1"], ids=["event-by-event", "at-once", "byte-by-byte"]
)
def test_events_arrive_however_they_are_cut_on_the_way(bedrock, pieces):
    _, events = stream(bedrock, "invoke", f"@sim:stream events=40{pieces}")

    events = decoded(events)

    assert text_of(events).split() == [f"word{number}" for number in range(1, 41)]


@pytest.mark.parametrize("kind", STREAMS)
def test_events_arrive_when_they_are_sent_and_not_at_the_end(bedrock, kind):
    _, events = stream(bedrock, kind, "@sim:stream events=20 delay_ms=25")

    times = [time.monotonic() for _ in events]

    assert times[-1] - times[0] > 0.3


def test_streams_at_the_same_time_do_not_mix(bedrock):
    def words(count: int) -> list[str]:
        _, events = stream(bedrock, "invoke", f"@sim:stream events={count} delay_ms=2")
        return text_of(decoded(events)).split()

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(words, range(30, 46)))

    assert [len(answer) for answer in answers] == list(range(30, 46))


def test_a_body_of_ten_mebibytes_is_taken_and_a_longer_one_is_a_validation_error(bedrock):
    largest = messages_body("x" * (10 * MEBIBYTE - len(messages_body(""))))

    answer = bedrock.invoke_model(modelId=CLAUDE, body=largest)
    with pytest.raises(bedrock.exceptions.ValidationException) as refused:
        bedrock.invoke_model(modelId=CLAUDE, body=largest + b" ")

    assert proxy.arrived(request_id(answer))["body_bytes"] == 10 * MEBIBYTE
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413


# Errors before a stream begins


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ValidationException", 400),
        ("AccessDeniedException", 403),
        ("ResourceNotFoundException", 404),
        ("ModelTimeoutException", 408),
        ("ModelErrorException", 424),
        ("ThrottlingException", 429),
        ("ModelNotReadyException", 429),
        ("InternalServerException", 500),
        ("ServiceUnavailableException", 503),
    ],
)
@pytest.mark.parametrize("operation", GENERATING)
def test_bedrocks_errors_are_boto3s_typed_exceptions(bedrock, operation, code, status):
    with pytest.raises(getattr(bedrock.exceptions, code)) as raised:
        calls_of(bedrock)[operation](f"@sim:error code={code}")

    response = raised.value.response
    call = proxy.arrived(request_id(response))
    assert response["Error"]["Code"] == code
    assert response["Error"]["Message"]
    assert response["ResponseMetadata"]["HTTPStatusCode"] == call["status"] == status


@pytest.mark.parametrize(
    ("operation", "code", "status"),
    [
        ("invoke", "ServiceQuotaExceededException", 400),
        ("invoke_stream", "ModelStreamErrorException", 424),
        ("count_tokens", "ThrottlingException", 429),
        # Not in boto3's model of the service, and yet Bedrock sends it.
        ("invoke", "FTUFormNotFilled", 404),
    ],
)
def test_errors_of_single_operations_keep_their_codes(bedrock, operation, code, status):
    with pytest.raises(ClientError) as raised:
        calls_of(bedrock)[operation](f"@sim:error code={code}")

    assert raised.value.response["Error"]["Code"] == code
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_an_errors_further_members_and_retry_after_survive(bedrock):
    with pytest.raises(bedrock.exceptions.ModelErrorException) as model_error:
        bedrock.converse(modelId=CLAUDE, messages=said("@sim:error code=ModelErrorException"))
    with pytest.raises(bedrock.exceptions.ThrottlingException) as throttled:
        bedrock.converse(modelId=CLAUDE, messages=said("@sim:throttle retry_after=7"))

    assert model_error.value.response["originalStatusCode"] == 400
    assert model_error.value.response["resourceName"] == "simulated-endpoint"
    assert (
        throttled.value.response["Error"]["Message"] == "Too many requests, please wait before trying again."
    )
    assert throttled.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "7"


def test_an_error_is_understood_in_each_of_the_ways_that_aws_spells_it(bedrock):
    for spelling in ["uri=1", "capital=1", "uri=1 capital=1"]:
        with pytest.raises(bedrock.exceptions.ThrottlingException) as raised:
            bedrock.converse(modelId=CLAUDE, messages=said(f"@sim:throttle {spelling}"))

        message = raised.value.response["Error"]["Message"]
        assert message == "Too many requests, please wait before trying again."


def test_the_account_and_principal_in_an_error_are_masked_and_nothing_else(bedrock):
    with pytest.raises(bedrock.exceptions.AccessDeniedException) as raised:
        bedrock.converse(modelId=CLAUDE, messages=said("@sim:error code=AccessDeniedException"))

    assert raised.value.response["Error"]["Message"] == (
        "User: arn:aws:sts::***:*** is not authorized to perform: bedrock:InvokeModel on resource: "
        f"arn:aws:bedrock:us-east-1::foundation-model/{CLAUDE} because no identity-based policy "
        "allows the bedrock:InvokeModel action"
    )


def test_what_bedrock_says_of_a_wrong_request_is_passed_on(bedrock):
    with pytest.raises(bedrock.exceptions.ValidationException) as no_model:
        bedrock.converse(modelId="no-such-model", messages=said("Hi"))
    with pytest.raises(bedrock.exceptions.ValidationException) as no_limit:
        bedrock.invoke_model(modelId=CLAUDE, body=b'{"anthropic_version":"bedrock-2023-05-31","messages":[]}')

    assert no_model.value.response["Error"]["Message"] == "The provided model identifier is invalid."
    assert no_limit.value.response["Error"]["Message"] == "max_tokens: Field required"


@pytest.mark.parametrize("operation", GENERATING)
@pytest.mark.parametrize(
    "directive",
    [
        "credentials",
        "error code=ExpiredTokenException",
        "error code=InvalidSignatureException",
        "error code=IncompleteSignature",
    ],
)
def test_trouble_with_the_services_own_credentials_is_no_business_of_the_client(
    bedrock, operation, directive
):
    with pytest.raises(bedrock.exceptions.InternalServerException) as raised:
        calls_of(bedrock)[operation](f"@sim:{directive}")

    response = raised.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 500
    for word in ["token", "signature", "credential", "Simulated"]:
        assert word not in response["Error"]["Message"]


@pytest.mark.parametrize("operation", GENERATING)
@pytest.mark.parametrize("directive", ["html", "html status=200", "redirect", "badjson status=500", "reset"])
def test_an_answer_that_is_not_bedrocks_is_an_unavailable_service(bedrock, operation, directive):
    with pytest.raises(bedrock.exceptions.ServiceUnavailableException) as raised:
        calls_of(bedrock)[operation](f"@sim:{directive}")

    response = raised.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert "<" not in response["Error"]["Message"]
    assert request_id(response)


@pytest.mark.parametrize("operation", ["invoke", "converse"])
def test_an_answer_that_breaks_off_is_an_unavailable_service(bedrock, operation):
    with pytest.raises(bedrock.exceptions.ServiceUnavailableException):
        calls_of(bedrock)[operation]("@sim:cut after=2")


# Errors in a stream


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize(
    ("directive", "code"),
    [
        ("exception after=3", "throttlingException"),
        ("exception after=3 type=modelStreamErrorException", "modelStreamErrorException"),
        ("exception after=3 type=internalServerException", "internalServerException"),
        ("exception after=0 type=validationException", "validationException"),
        ("errorframe after=3", "InternalFailure"),
    ],
)
def test_an_exception_in_a_stream_is_an_event_stream_error(bedrock, kind, directive, code):
    _, events = stream(bedrock, kind, f"@sim:{directive}")
    received = []

    with pytest.raises(EventStreamError) as raised:
        received.extend(events)

    assert raised.value.response["Error"]["Code"] == code
    assert raised.value.response["Error"]["Message"]
    assert len(received) == (0 if "after=0" in directive else 3)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize(
    "directive",
    [
        "cut after=3",
        "cut_clean after=3",
        "cut_boundary after=3",
        "badcrc after=3",
        "badcrc after=3 kind=prelude",
        "badlen after=3",
        "garbage after=3",
    ],
)
def test_a_broken_stream_gives_what_it_had_and_never_looks_like_an_end(bedrock, kind, directive):
    _, events = stream(bedrock, kind, f"@sim:{directive}")
    received = []

    with pytest.raises(BROKEN):
        for event in events:
            received.append(event)

    assert len(received) == 3


# Credentials


def test_a_jwt_is_a_bearer_token_too():
    answer = aws.bedrock(proxy.env("PROXY_TOKEN")).converse(modelId=CLAUDE, messages=said("Hi"))

    assert proxy.arrived(request_id(answer))["status"] == 200


def wrong_keys() -> dict[str, str]:
    key, token = proxy.env("PROXY_KEY"), proxy.env("PROXY_TOKEN")
    other = "A" if key[-1] != "A" else "B"
    head, claims, signature = token.split(".")
    return {
        "mistyped": key[:-1] + other,
        "shortened": key[:-4],
        "revoked": proxy.env("PROXY_REVOKED_KEY"),
        "made-up": "SSOK_nonsense",
        "of-another-service": "sk-ant-api03-0123456789",
        "token-signed-by-nobody": f"{head}.{claims}.",
        "token-with-another-signature": f"{head}.{claims}.{signature[::-1]}",
    }


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["mistyped", "revoked"])
def test_every_operation_refuses_a_wrong_key(operation, kind):
    before = len(proxy.ledger())

    with pytest.raises(ClientError) as raised:
        calls_of(aws.bedrock(wrong_keys()[kind]))[operation]("Hi")

    assert raised.value.response["Error"]["Code"] == OUR_REFUSAL
    assert len(proxy.ledger()) == before


def test_no_refusal_tells_why():
    refusals = set()

    for key in wrong_keys().values():
        with pytest.raises(ClientError) as raised:
            aws.bedrock(key).converse(modelId=CLAUDE, messages=said("Hi"))
        response = raised.value.response
        assert request_id(response)
        assert "www-authenticate" in response["ResponseMetadata"]["HTTPHeaders"]
        status = response["ResponseMetadata"]["HTTPStatusCode"]
        refusals.add((status, response["Error"]["Code"], response["Error"]["Message"]))

    assert len(refusals) == 1
    assert refusals.pop()[:2] == (401, OUR_REFUSAL)


def test_a_client_that_signs_with_aws_keys_is_told_what_to_set():
    bedrock = aws.signing_bedrock()
    before = len(proxy.ledger())

    with pytest.raises(bedrock.exceptions.AccessDeniedException) as raised:
        bedrock.converse(modelId=CLAUDE, messages=said("Hi"))

    assert "AWS_BEARER_TOKEN_BEDROCK" in raised.value.response["Error"]["Message"]
    assert len(proxy.ledger()) == before


def test_an_operation_that_is_not_served_is_not_found(bedrock):
    with pytest.raises(bedrock.exceptions.ResourceNotFoundException):
        bedrock.apply_guardrail(
            guardrailIdentifier="abc",
            guardrailVersion="1",
            source="INPUT",
            content=[{"text": {"text": "Hi"}}],
        )
