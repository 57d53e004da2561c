"""The service under test and the simulated Bedrock behind it, as clients see them.

Where they are stands in the environment; `conftest.py` checks that before anything is read here.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

import anthropic

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


def claude_client(key: str, **options: Any) -> anthropic.AnthropicBedrock:
    """Anthropic's client that repeats nothing by itself, unless `options` say so."""
    return anthropic.AnthropicBedrock(**anthropic_options(key, **options))


def messages_client(**options: Any) -> anthropic.Anthropic:
    """Anthropic's client of the Messages API that repeats nothing by itself, unless `options` say so."""
    return anthropic.Anthropic(**messages_options(**options))


def messages_options(**options: Any) -> dict[str, Any]:
    return {"base_url": env("PROXY_URL") + "/anthropic", "max_retries": 0, "timeout": 30} | options


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


def arrived(upstream_request_id: str, seconds: float = 10) -> dict[str, Any]:
    """The request that Bedrock answered with this id, once it is over."""

    def find() -> dict[str, Any] | None:
        calls = (call for call in ledger() if call["request_id"] == upstream_request_id)
        return next((call for call in calls if call["ended_at"]), None)

    return eventually(find, f"request {upstream_request_id} in the ledger", seconds)


def sent(upstream_request_id: str) -> dict[str, Any]:
    """The body of that request. Only the last few are kept."""
    url = f"{env('SIMULATOR_URL')}/_simulator/body/{upstream_request_id}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def alike(call: dict[str, Any]) -> list[dict[str, Any]]:
    """All requests with the body of this one, oldest first."""
    return [other for other in ledger() if other["body_sha256"] == call["body_sha256"]]


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
    """The usage record of a recent call, once it is written."""
    return recent_row(credential, upstream_request_id, lambda row: row["upstream_request_id"])


def own_row(credential: str, request_id: str) -> dict[str, Any]:
    """The same by the id that the service gave the call."""
    return recent_row(credential, request_id, lambda row: f"req_{row['request_id']}")


def recent_row(credential: str, wanted: str, id_of: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    def find() -> dict[str, Any] | None:
        status, page = usage_page(credential, limit=50)
        assert status == 200, page
        return next((row for row in page["records"] if id_of(row) == wanted), None)

    return eventually(find, f"usage record of {wanted}")


# Tokens, in the ledger's words


def recorded(row: dict[str, Any]) -> dict[str, int]:
    """Those of a usage record. Classes that nobody reported count as none."""
    written, hour = row["cache_write_tokens"] or 0, row["cache_write_1h_tokens"] or 0
    return {
        "input": row["input_tokens"],
        "output": row["output_tokens"] or 0,
        "cache_read": row["cache_read_tokens"] or 0,
        "cache_write_5m": written - hour,
        "cache_write_1h": hour,
    }


def reported(usage: Any) -> dict[str, int]:
    """Those that Anthropic's client reports."""
    parts = usage.cache_creation
    return {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cache_read": usage.cache_read_input_tokens or 0,
        "cache_write_5m": parts.ephemeral_5m_input_tokens if parts else 0,
        "cache_write_1h": parts.ephemeral_1h_input_tokens if parts else 0,
    }
