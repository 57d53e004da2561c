"""boto3 clients of the service."""

from __future__ import annotations

import functools
import os
from typing import Any

import boto3
from botocore.config import Config

from proxy import REGION, env


@functools.cache
def bedrock(key: str) -> Any:
    """A boto3 client with this bearer token that repeats nothing by itself."""
    # A client keeps the token that it finds when it is made, and asks before each call whether there
    # still is one; so the variable stays set.
    os.environ["AWS_BEARER_TOKEN_BEDROCK"] = key
    return client(boto3.Session(region_name=REGION))


def signing_bedrock() -> Any:
    """A boto3 client that signs with AWS keys, although there is a bearer token."""
    session = boto3.Session("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", region_name=REGION)
    return client(session, signature_version="v4")


def client(session: boto3.Session, **config: Any) -> Any:
    return session.client(
        "bedrock-runtime",
        # boto3 sends bearer tokens over TLS only.
        endpoint_url=env("PROXY_TLS_URL") + "/bedrock",
        verify=env("PROXY_CA_FILE"),
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30, **config),
    )
