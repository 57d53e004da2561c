"""Paced event streams: an upstream that sends them, and a client that opens many and reads them.

Run as a program it is the upstream, `python3 streams.py PORT`: an HTTP/1.1 server that answers every
POST with the events of a Claude `InvokeModelWithResponseStream`, one frame a chunk. The request says
how many and how fast: `events=200 delay_ms=5` anywhere in its body. It checks no signature, so that
the same server stands behind the service and behind what it is compared with.
"""

import base64
import binascii
import functools
import heapq
import itertools
import json
import re
import select
import socket
import struct
import sys
import time

KIND = "application/vnd.amazon.eventstream"
SSE = "text/event-stream"
INPUT_TOKENS, OUTPUT_TOKENS = 412, 87
#: Events of every stream besides its text deltas.
FRAMING = 5
PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
GOLDEN = 0.6180339887498949
LAST_CHUNK = b"0\r\n\r\n"


class Failed(Exception):
    """A stream that is not what it should be."""


def frame(event):
    """One `chunk` event: length, headers, payload, and their two checksums."""
    text = base64.b64encode(json.dumps(event, separators=(",", ":")).encode()).decode()
    payload = json.dumps({"bytes": text, "p": PADDING[:12]}, separators=(",", ":")).encode()
    headers = b""
    for name, value in (
        (":event-type", "chunk"),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ):
        headers += struct.pack("!B", len(name)) + name.encode()
        headers += struct.pack("!BH", 7, len(value)) + value.encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack("!I", binascii.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", binascii.crc32(message))


def as_sse(event):
    """The event as clients of the Messages API get it: without Bedrock's metrics."""
    shown = {name: value for name, value in event.items() if not name.startswith("amazon-")}
    return f"event: {event['type']}\ndata: {json.dumps(shown, separators=(',', ':'))}\n\n".encode()


@functools.cache
def frames(deltas):
    """The frames of a whole stream."""
    return [frame(event) for event in events(deltas)]


def events(deltas):
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": 1}
    message = {
        "id": "msg_bdrk_bench", "type": "message", "role": "assistant", "content": [],
        "model": "claude-sonnet-4-20250514", "stop_reason": None, "stop_sequence": None,
        "usage": usage,
    }  # fmt: skip
    delta = {"type": "text_delta", "text": " and so it goes"}
    metrics = {
        "inputTokenCount": INPUT_TOKENS, "outputTokenCount": OUTPUT_TOKENS,
        "invocationLatency": 1000, "firstByteLatency": 100,
    }  # fmt: skip
    block = {"type": "text", "text": ""}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *[{"type": "content_block_delta", "index": 0, "delta": delta}] * deltas,
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": OUTPUT_TOKENS},
        },
        {"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics},
    ]


def request_body(deltas, delay_ms, size=1024, sse=False):
    text = f"events={deltas} delay_ms={delay_ms} ".ljust(size - 128, "x")
    ours = {"model": "claude-sonnet-4-5", "stream": True}
    native = {"anthropic_version": "bedrock-2023-05-31"}
    body = {"max_tokens": 256, "messages": [{"role": "user", "content": text}]}
    return json.dumps((ours if sse else native) | body).encode()


# The upstream


@functools.cache
def chunks(deltas):
    """What is sent at each step: the head with the first frame, and the end with the last."""
    parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in frames(deltas)]
    parts[0] = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {KIND}\r\nTransfer-Encoding: chunked\r\n"
        "x-amzn-requestid: 7a9f5b3e-2f0c-4f0e-9c5d-6b1d3c2e8a10\r\n\r\n"
    ).encode() + parts[0]
    parts[-1] += LAST_CHUNK
    return parts


class Upstream:
    def __init__(self, port):
        self.listener = socket.create_server(("127.0.0.1", port), backlog=2048)
        self.listener.setblocking(False)
        self.poll = select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.requests = {}  # what has arrived of each connection's request
        self.due = []  # (when, order, connection, what is left to send, pause)
        self.order = itertools.count()

    def run(self):
        looked = 0.0
        while True:
            now = time.monotonic()
            while self.due and self.due[0][0] <= now:
                self.step(*heapq.heappop(self.due))
            if not self.due:
                self.look(0.05)
            elif now - looked >= 0.002:
                self.look(0)
                looked = now
            else:
                time.sleep(max(0.0, min(self.due[0][0] - time.monotonic(), 0.002)))

    def step(self, when, _order, connection, left, pause):
        piece = next(left, None)
        if piece is None:
            return
        try:
            # A piece is small and the socket's buffer is not: anything but all of it is a failure.
            sent = connection.send(piece)
        except OSError:
            sent = -1
        if sent == len(piece):
            heapq.heappush(self.due, (when + pause, next(self.order), connection, left, pause))
        else:
            self.close(connection)

    def look(self, wait):
        for number, _ in self.poll.poll(wait):
            if number == self.listener.fileno():
                self.accept()
            else:
                self.read(self.requests[number][0])

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.requests[connection.fileno()] = (connection, bytearray())
            self.poll.register(connection, select.EPOLLIN)

    def read(self, connection):
        try:
            piece = connection.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self.close(connection)
            return
        text = self.requests[connection.fileno()][1]
        text += piece
        head, _, body = bytes(text).partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length is None or len(body) < int(length[1]):
            return
        text.clear()
        deltas, delay = map(int, re.search(rb"events=(\d+) delay_ms=(\d+)", body).groups())
        # Streams shall not keep step with each other, so each begins at a moment of its own.
        order = next(self.order)
        starts = time.monotonic() + delay / 1000 * (order * GOLDEN % 1)
        heapq.heappush(
            self.due, (starts, order, connection, iter(chunks(deltas)), delay / 1000)
        )

    def close(self, connection):
        if self.requests.pop(connection.fileno(), None):
            self.poll.unregister(connection)
            connection.close()
            self.due = [step for step in self.due if step[2] is not connection]
            heapq.heapify(self.due)


# The client


def read_all(port, path, headers, count, deltas, delay_ms, when_all_run=None, sse=False):
    """Opens `count` streams, reads each to its end and compares it with what was sent.

    With `sse` the streams are those of the Messages API. Answers the seconds until the last one ended. `when_all_run` is called once, when every stream
    has begun and none has ended.
    """
    body = request_body(deltas, delay_ms, sse=sse)
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    request = "\r\n".join(lines).encode() + body
    wanted = b"".join(map(as_sse, events(deltas)) if sse else frames(deltas))
    started = time.monotonic()
    latest = started + 30 + (deltas + FRAMING) * delay_ms / 1000 * 3
    poll, open_streams = select.epoll(), {}
    answers = []
    try:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            connection.sendall(request)
            connection.setblocking(False)
            answer = bytearray()
            answers.append(answer)
            open_streams[connection.fileno()] = (connection, answer)
            poll.register(connection, select.EPOLLIN)
        begun = 0
        while open_streams:
            if time.monotonic() > latest:
                raise Failed(f"{len(open_streams)} of {count} streams did not end in time")
            for number, _ in poll.poll(0.1):
                connection, answer = open_streams[number]
                piece = connection.recv(1 << 16)
                if not piece:
                    raise Failed(f"a stream broke off after {len(answer)} bytes: {start(answer)}")
                begun += not answer
                answer += piece
                if answer.endswith(LAST_CHUNK):
                    poll.unregister(number)
                    connection.close()
                    del open_streams[number]
            if when_all_run and begun == count:
                if len(open_streams) < count:
                    raise Failed("streams ended before all had begun: the machine is too slow")
                when_all_run()
                when_all_run = None
        seconds = time.monotonic() - started
        for answer in answers:
            if content(answer, SSE if sse else KIND) != wanted:
                raise Failed(f"a stream differs from what upstream sent: {start(answer)}")
        return seconds
    finally:
        for connection, _ in open_streams.values():
            connection.close()
        poll.close()


def content(answer, kind):
    """The content of a whole answer in chunks."""
    head, _, rest = bytes(answer).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 ") or kind.encode() not in head:
        raise Failed(f"not an event stream: {start(answer)}")
    parts, at = [], 0
    while True:
        end = rest.index(b"\r\n", at)
        length = int(rest[at:end], 16)
        if length == 0:
            return b"".join(parts)
        parts.append(rest[end + 2 : end + 2 + length])
        at = end + 2 + length + 2


def start(answer):
    return repr(bytes(answer[:300]))


if __name__ == "__main__":
    Upstream(int(sys.argv[1])).run()
