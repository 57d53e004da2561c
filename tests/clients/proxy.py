"""The service under test and the simulated Bedrock behind it, as clients see them.

Where they are stands in the environment; `conftest.py` checks that before anything is read here.
"""

from __future__ import annotations

import functools
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

import anthropic
import boto3
from botocore.config import Config

VARIABLES = (
    "PROXY_URL",
    "PROXY_TLS_URL",
    "PROXY_CA_FILE",
    "PROXY_KEY",
    "PROXY_OTHER_KEY",
    "PROXY_TOKEN",
    "PROXY_REVOKED_KEY",
    "SIMULATOR_URL",
)
REGION = "us-east-1"
CLAUDE = "us.anthropic.claude-sonnet-4-20250514-v1:0"
FOUNDATION = "anthropic.claude-sonnet-4-20250514-v1:0"
# Answers without an inference profile.
ON_DEMAND = "anthropic.claude-3-haiku-20240307-v1:0"
ARN = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{CLAUDE}"
# Knows both versions of the Messages API, whichever an SDK puts into the body, and caches for an hour.
NEW_CLAUDE = "us.anthropic.claude-opus-4-8"
REPLY = "This is a simulated reply from Bedrock; no model was called."

T = TypeVar("T")


def env(name: str) -> str:
    return os.environ[name]


def eventually(find: Callable[[], T | None], what: str, seconds: float = 10) -> T:
    """What `find` finds, as soon as it finds it. Usage rows are written in batches."""
    deadline = time.monotonic() + seconds
    while (found := find()) is None:
        assert time.monotonic() < deadline, f"{what}: not there after {seconds} s"
        time.sleep(0.05)
    return found


# Clients


@functools.cache
def bedrock(key: str) -> Any:
    """A boto3 client with this bearer token that repeats nothing by itself."""
    # A client keeps the token that it finds when it is made, and asks before each call whether there
    # still is one; so the variable stays set.
    os.environ["AWS_BEARER_TOKEN_BEDROCK"] = key
    return boto3_client(boto3.Session(region_name=REGION))


def signing_bedrock() -> Any:
    """A boto3 client that signs with AWS keys, although there is a bearer token."""
    session = boto3.Session("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", region_name=REGION)
    return boto3_client(session, signature_version="v4")


def boto3_client(session: boto3.Session, **config: Any) -> Any:
    return session.client(
        "bedrock-runtime",
        # boto3 sends bearer tokens over TLS only.
        endpoint_url=env("PROXY_TLS_URL") + "/bedrock",
        verify=env("PROXY_CA_FILE"),
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30, **config),
    )


def claude_client(key: str, **options: Any) -> anthropic.AnthropicBedrock:
    """Anthropic's client that repeats nothing by itself, unless `options` say so."""
    return anthropic.AnthropicBedrock(**anthropic_options(key, **options))


def anthropic_options(key: str, **options: Any) -> dict[str, Any]:
    base_url = env("PROXY_URL") + "/bedrock"
    given = {"api_key": key, "base_url": base_url, "aws_region": REGION, "max_retries": 0, "timeout": 30}
    return given | options


# Requests


def messages_body(text: str, **members: Any) -> bytes:
    """The body of InvokeModel for Claude."""
    body = {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 200,
        "messages": [{"role": "user", "content": text}],
    }
    return json.dumps(body | members).encode()


def said(text: str) -> list[dict[str, Any]]:
    """The messages of Converse."""
    return [{"role": "user", "content": [{"text": text}]}]


# What became of them


def request_id(answer: dict[str, Any]) -> str:
    return answer["ResponseMetadata"]["RequestId"]


def ledger() -> list[dict[str, Any]]:
    """Every request that reached the simulated Bedrock, oldest first."""
    with urllib.request.urlopen(env("SIMULATOR_URL") + "/_simulator/ledger", timeout=10) as answer:
        return json.load(answer)


def arrived(upstream_request_id: str) -> dict[str, Any]:
    """The request that Bedrock answered with this id, once it is over."""

    def find() -> dict[str, Any] | None:
        calls = (call for call in ledger() if call["request_id"] == upstream_request_id)
        return next((call for call in calls if call["ended_at"]), None)

    return eventually(find, f"request {upstream_request_id} in the ledger")


def usage_page(credential: str, **query: Any) -> tuple[int, dict[str, Any]]:
    """Status and body of the caller's own usage records."""
    url = f"{env('PROXY_URL')}/api/usage/records?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {credential}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def usage_rows(credential: str) -> dict[str, dict[str, Any]]:
    """All of the caller's usage records, by the request id that Bedrock gave."""
    rows, query = [], {"limit": 500}
    while True:
        status, page = usage_page(credential, **query)
        assert status == 200, page
        rows += page["records"]
        if page["next_cursor"] is None:
            return {row["upstream_request_id"]: row for row in rows}
        query["cursor"] = page["next_cursor"]


def usage_row(credential: str, upstream_request_id: str) -> dict[str, Any]:
    """The usage record of one call, once it is written."""
    return eventually(
        lambda: usage_rows(credential).get(upstream_request_id), f"usage record of {upstream_request_id}"
    )
