"""What schemathesis has to know besides the document: rules between two parameters, which OpenAPI cannot say, and whom
to leave alone."""

from __future__ import annotations

import os
from datetime import date, datetime, timezone
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

# People and sessions that the run itself lives on: nobody disables them or ends their sessions.
OWN_IDS = set(os.environ["OPENAPI_OWN_IDS"].split(","))

MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31), timezones=st.just(timezone.utc))
DAYS = st.dates(date(2000, 1, 1), date(2199, 12, 31))
schemathesis.openapi.format(
    "date-or-time",
    st.one_of(DAYS.map(date.isoformat), MOMENTS.map(lambda time: time.isoformat().replace("+00:00", "Z"))),
)

PRICES = st.integers(0, 10**9).map(lambda nano: f"{nano / 10**9:.9f}")
MODELS = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-", min_size=1, max_size=40).map(lambda text: "a" + text)
LINES = st.lists(st.tuples(st.sampled_from(["*", "us-east-1"]), MODELS, PRICES, PRICES), min_size=1, max_size=5, unique_by=lambda line: line[:2])
schemathesis.openapi.format(
    "prices",
    LINES.map(lambda lines: "\n".join(["region,model_id,input_per_1k,output_per_1k", *map(",".join, lines)])),
)


def is_positive(case: schemathesis.Case) -> bool:
    return case.meta is None or case.meta.generation.mode == GenerationMode.POSITIVE


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case) -> schemathesis.Case:
    if is_positive(case):
        if case.query:
            fit(case.query)
        if isinstance(case.body, dict) and case.operation.path.startswith("/api/admin/costs"):
            fit_price(case.body)
            fit_time(case.body, "valid_from")
        if isinstance(case.body, dict) and case.body.get("expires_in_days", 0) is None:
            del case.body["expires_in_days"]  # for ever is not allowed here (api_keys.max_expiry_days)
    return case


def fit(query: dict[str, Any]) -> None:
    """Parameters that do not go together, and two that have an order."""
    query.pop("cursor", None)  # only a `next_cursor` is one
    for name in ("after_id", "before_id"):
        query.pop(name, None)  # only an id of the list is one
    if "format" in query:
        for name in ("limit", "offset"):
            query.pop(name, None)  # a file has no pages
    if "outcome" in query:
        query.pop("success_only", None)
    fit_time(query, "start_date")
    fit_time(query, "end_date")
    if "start_date" in query and "end_date" in query:
        given = (query["start_date"], query["end_date"])
        if all(isinstance(text, str) for text in given):
            query["start_date"], query["end_date"] = sorted(given, key=read_time)


def fit_time(members: dict[str, Any], name: str) -> None:
    """What has the pattern of a time need not be one: there is no 30th of February, and a zone may lead out of 2000 to 2199."""
    text = members.get(name)
    if isinstance(text, str):
        time = read_time(text)
        if not time or not 2000 <= time.year < 2200:
            members[name] = "2026-11-21"


def read_time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if len(text) == len("2026-11-21"):
            time = time.replace(tzinfo=timezone.utc)
        return time.astimezone(timezone.utc) if time.tzinfo else None
    except (OverflowError, ValueError):
        return None


def fit_price(body: dict[str, Any]) -> None:
    """One of the five is needed, and the two for long prompts come together, over an input price above 0. A number has nine
    decimal places at most, for which a schema has no word."""
    for name in ("input_long_cost_per_1k_tokens", "output_long_cost_per_1k_tokens"):
        body.pop(name, None)
    for name, price in body.items():
        if name.endswith("_cost_per_1k_tokens") and isinstance(price, float):
            body[name] = round(price, 9)
    body.setdefault("input_cost_per_1k_tokens", "0.003")
    if body["input_cost_per_1k_tokens"] is None:
        body["input_cost_per_1k_tokens"] = "0.003"


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    named = case.path_parameters or {}
    return not OWN_IDS & {str(value) for value in named.values()}
