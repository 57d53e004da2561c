"""What people and programs do to the service, from inside the machine of the trial: sign in, make a key on the page, call.

    client.py sign-in PERSON                 as a browser: cookies, redirects, the provider's form; makes a key, into `key`
    client.py load SECONDS DELAY_MS          calls by three at a time, each over a connection of its own, and one stream

Ids of the calls that were answered go to `answered`; what it saw is one line of JSON.
"""

import http.client
import json
import re
import ssl
import sys
import threading
import time
import urllib.parse
import urllib.request

BASE = "https://localhost"
CONTEXT = ssl.create_default_context(cafile="ca.crt")


def sign_in(person):
    browser = urllib.request.build_opener(urllib.request.HTTPSHandler(context=CONTEXT), urllib.request.HTTPCookieProcessor())

    def page(path, form=None):
        data = urllib.parse.urlencode(form).encode() if form else None
        request = urllib.request.Request(urllib.parse.urljoin(BASE, path), data, {"origin": BASE} if form else {})
        with browser.open(request, timeout=60) as answer:
            return answer.read().decode(), answer.url

    login, _ = page("/login")
    _, asked = page(re.search(r'href="([^"]*/auth/authorize/company[^"]*)"', login)[1])
    _, landed = page(asked, {"person": person})  # and back, by redirects
    assert landed == BASE + "/", landed
    keys, _ = page("/keys")
    hidden = dict(re.findall(r'<input type="hidden" name="(csrf_token|form)" value="([^"]*)"', keys))
    made, _ = page("/keys", hidden | {"name": "trial", "expires_in_days": "90"})
    open("key", "w").write(re.search(r"SSOK_[A-Za-z0-9_-]+", made)[0])
    return {"landed": landed}


def call(text, stream):
    connection = http.client.HTTPSConnection("localhost", 443, context=CONTEXT, timeout=150)
    body = {"model": "claude-opus-4-8", "max_tokens": 64, "stream": stream, "messages": [{"role": "user", "content": text}]}
    headers = {"authorization": "Bearer " + open("key").read(), "content-type": "application/json"}
    try:
        connection.request("POST", "/anthropic/v1/messages", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["request-id"], answer.read()
    finally:
        connection.close()


def load(seconds, delay):
    end, answered, failed, whole = time.monotonic() + float(seconds), [], [], []

    def calls():
        while time.monotonic() < end:
            try:
                status, request, body = call("Hello", False)
                answered.append(request) if status == 200 else failed.append(f"{status} {body[:200]!r}")
            except OSError as error:
                failed.append(repr(error))
            except http.client.HTTPException as error:
                failed.append(repr(error))

    def stream():
        try:
            status, request, body = call(f"One two three @sim:plain delay_ms={delay}", True)
            whole.append(status == 200 and body.rstrip().endswith(b'{"type":"message_stop"}'))
            answered.append(request)
        except (OSError, http.client.HTTPException):
            whole.append(False)

    threads = [threading.Thread(target=work) for work in (calls, calls, calls, stream)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open("answered", "a") as known:
        known.writelines(request.removeprefix("req_") + "\n" for request in answered)
    return {"answered": len(answered), "failed": failed, "stream_whole": whole == [True]}


print(json.dumps({"sign-in": sign_in, "load": load}[sys.argv[1]](*sys.argv[2:])))
