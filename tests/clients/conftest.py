"""Settings that hold for every test, and the clients that most of them use."""

import os

import pytest

import proxy


def pytest_configure() -> None:
    missing = [name for name in proxy.VARIABLES if not os.environ.get(name)]
    if missing:
        raise pytest.UsageError(
            f"{', '.join(missing)} not set: these tests talk to a running service with a simulated "
            "Bedrock behind it. Run `make test`, which starts both."
        )
    # The settings of whoever runs this must not decide what the SDKs do.
    for name in list(os.environ):
        if name.upper().startswith(("AWS_", "ANTHROPIC_")) or name.upper().endswith("_PROXY"):
            del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.devnull
    os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


@pytest.fixture(scope="session")
def bedrock():
    """boto3 with an API key."""
    import aws  # not there with the older SDK

    return aws.bedrock(proxy.env("PROXY_KEY"))


@pytest.fixture(scope="session")
def claude():
    """Anthropic's client with the same API key."""
    with proxy.claude_client(proxy.env("PROXY_KEY")) as client:
        yield client


@pytest.fixture(scope="session")
def messages():
    """Anthropic's client of the Messages API, with the same key."""
    with proxy.messages_client(api_key=proxy.env("PROXY_KEY")) as client:
        yield client
