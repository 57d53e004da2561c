"""Measures the service beside nginx: what a call, an event, an open stream and a start cost.

`scripts/bench` is the way to run it. Every figure of the service stands beside the same figure of
nginx taken within seconds of it, so that ratios hold on a machine that does other things as well.
What is measured is pinned to one core, the load and upstream to another; their CPU time does not
count. After each load the usage rows must be the answers; else the run fails.
"""

import gc
import os
import pathlib
import platform
import random
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import streams
from servers import CORES, INVOKE, LOAD_CORE, SERVER_CORE, STREAM
from servers import Broken, Processes, Service, Used, rss_kib

HERE = pathlib.Path(__file__).parent
PARTS = ("calls", "latency", "streams", "memory", "start")


def setting(name, default):
    return int(os.environ.get(f"BENCH_{name}", default))


SECONDS = setting("SECONDS", 2)
ROUNDS = setting("ROUNDS", 5)
CONNECTIONS = setting("CONNECTIONS", 32)
LATENCY_SECONDS = setting("LATENCY_SECONDS", 4)
STREAMS = setting("STREAMS", 50)
EVENTS = setting("EVENTS", 400)
OPEN_STREAMS = setting("OPEN_STREAMS", 1000)
STARTS = setting("STARTS", 10)
STRICT = setting("STRICT", 0) == 1

#: wrk sends nothing in the last part of its time, so that every call is answered.
QUIET = 0.3
CALLS_A_SECOND = 200
SMALL, LARGE = 1024, 128 * 1024
MESSAGES = "/anthropic/v1/messages"


class Table:
    """The figures, in the order in which they were taken."""

    def __init__(self):
        self.rows, self.missed = [], []

    def add(self, what, nginx, ours, ratio=None, target=None):
        """`nginx` and `ours` are texts; `target` is what the ratio may be, or (figure, limit, unit)."""
        shown, verdict = f"{ratio:.2f}" if ratio else "", ""
        if target is not None:
            figure, limit, unit = target if isinstance(target, tuple) else (ratio, target, "×")
            good = figure <= limit
            verdict = f"≤ {limit:g} {unit}".strip() + (": met" if good else ": **missed**")
            if not good:
                self.missed.append(what)
        self.rows.append((what, nginx or "–", ours, shown or "–", verdict or "–"))
        say(f"  {what}: {ours}" + (f", nginx {nginx}" if nginx else "") + (f"; {shown}" if shown else ""))

    def markdown(self):
        head = ("Figure", "nginx", "bedrock_proxy", "Ratio", "Target")
        widths = [max(len(row[i]) for row in [head, *self.rows]) for i in range(5)]
        line = lambda cells: "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths)) + " |"
        rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
        return "\n".join([line(head), rule, *map(line, self.rows)])


def say(text):
    print(f"scripts/bench: {text}", file=sys.stderr, flush=True)


def median_ratio(ours, theirs):
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


# Plain calls


class Load:
    """One run of wrk against a server: answers, and the server's CPU time for each in microseconds."""

    def __init__(self, port, path, size, seconds, process=None, token=None):
        arguments = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
        arguments += ["-s", str(HERE / "calls.lua"), f"http://127.0.0.1:{port}{path}"]
        arguments += ["--", str(size), str(seconds - QUIET), *([token] if token else [])]
        before = process and Used(process.pid)
        done = subprocess.run(
            arguments, capture_output=True, text=True, timeout=seconds + 30, check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, [LOAD_CORE]),
        )  # fmt: skip
        after = process and Used(process.pid)
        found = re.search(r"answers=(\d+) failed=(\d+) p50_us=(\d+) p99_us=(\d+)", done.stdout)
        if done.returncode != 0 or not found:
            raise Broken(f"wrk: {done.stdout}{done.stderr}")
        self.answers, failed, self.p50_us, self.p99_us = map(int, found.groups())
        if failed or not self.answers:
            raise Broken(f"wrk counts {failed} failures and {self.answers} answers: {done.stdout}")
        self.rate = self.answers / (seconds - QUIET)
        if process:
            self.cpu_us = (after.cpu - before.cpu) / self.answers * 1e6
            self.busy = (after.cpu - before.cpu) / (seconds - QUIET)
            self.user = (after.user - before.user) / max(after.cpu - before.cpu, 0.01)


def calls(table, service, nginx, nginx_port, upstream, size, name, target):
    kinds = {"nginx": [], "key": [], "token": []}
    direct = Load(upstream, INVOKE, size, SECONDS)
    for round_number in range(ROUNDS + 1):
        seconds = SECONDS if round_number else 1
        for kind, loads in kinds.items():
            if kind == "nginx":
                load = Load(nginx_port, INVOKE, size, seconds, nginx, service.key)
            else:
                secret = service.key if kind == "key" else service.token
                load = Load(service.port, "/bedrock" + INVOKE, size, seconds, service.process, secret)
                service.answered(load.answers, f"{name} with a {kind}")
            if round_number:  # the first only warms up
                loads.append(load)
    cost = {kind: [load.cpu_us for load in loads] for kind, loads in kinds.items()}
    middle = {kind: statistics.median(values) for kind, values in cost.items()}
    rate = {k: statistics.median(load.rate for load in loads) for k, loads in kinds.items()}
    busy = {k: statistics.median(load.busy for load in loads) for k, loads in kinds.items()}
    user = {k: statistics.median(load.user for load in loads) for k, loads in kinds.items()}
    say(f"  direct: {direct.rate:.0f} calls/s, p50 {direct.p50_us} µs")
    for kind, figures in cost.items():
        say(
            f"  {kind}: {', '.join(f'{figure:.1f}' for figure in figures)} µs a call; core "
            f"{busy[kind]:.0%} busy, {user[kind]:.0%} of that in the program itself"
        )
    table.add(
        f"CPU for a call, {name}, API key",
        f"{middle['nginx']:.1f} µs", f"{middle['key']:.1f} µs",
        median_ratio(cost["key"], cost["nginx"]), target,
    )  # fmt: skip
    table.add(
        f"CPU for a call, {name}, access token (ratio: to the key)",
        "", f"{middle['token']:.1f} µs",
        median_ratio(cost["token"], cost["key"]), 1.05,
    )  # fmt: skip
    table.add(
        f"Calls a second on one core, {name} (upstream alone: {direct.rate:.0f})",
        f"{rate['nginx']:.0f}", f"{rate['key']:.0f}", rate["key"] / rate["nginx"],
    )  # fmt: skip


# Latency


class Caller:
    """A client with one connection."""

    def __init__(self, port, path, token):
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = streams.request_body(0, 0, SMALL)
        self.request = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def call(self):
        """Seconds from the first byte sent to the last received."""
        began = time.perf_counter()
        self.connection.sendall(self.request)
        answer = b""
        while True:
            piece = self.connection.recv(1 << 16)
            if not piece:
                raise Broken(f"no whole answer: {answer[:300]}")
            answer += piece
            head, end, body = answer.partition(b"\r\n\r\n")
            if end and len(body) >= int(re.search(rb"(?i)content-length: (\d+)", head)[1]):
                break
        took = time.perf_counter() - began
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise Broken(f"an answer to a paced call: {answer[:300]}")
        return took


def latency(table, service, nginx_port, upstream):
    callers = {
        "direct": Caller(upstream, INVOKE, "none"),
        "nginx": Caller(nginx_port, INVOKE, "none"),
        "ours": Caller(service.port, "/bedrock" + INVOKE, service.key),
    }
    took = {name: [] for name in callers}
    answers = 0
    block = CALLS_A_SECOND // 4
    for _ in range(LATENCY_SECONDS * CALLS_A_SECOND // block):
        for name in random.sample(list(callers), len(callers)):
            due = time.perf_counter()
            for number in range(block):
                due += 1 / CALLS_A_SECOND
                time.sleep(max(0, due - time.perf_counter()))
                seconds = callers[name].call()
                answers += name == "ours"
                if number:  # the first of a block finds a cold cache
                    took[name].append(seconds * 1e6)
    service.answered(answers, "paced calls")
    middle = {name: statistics.median(values) for name, values in took.items()}
    late = {name: statistics.quantiles(values, n=100)[98] for name, values in took.items()}
    say("  " + ", ".join(f"{n}: p50 {middle[n]:.0f} µs, p99 {late[n]:.0f} µs" for n in took))
    added = {name: middle[name] - middle["direct"] for name in ("nginx", "ours")}
    table.add(
        f"Added to p50 at {CALLS_A_SECOND} calls/s (direct: {middle['direct']:.0f} µs)",
        f"{added['nginx']:.0f} µs", f"{added['ours']:.0f} µs",
        added["ours"] / added["nginx"], 1.5,
    )  # fmt: skip


# Streams


def paced_streams(table, service, nginx, nginx_port):
    events = STREAMS * (EVENTS + streams.FRAMING)
    ideal = (EVENTS + streams.FRAMING) * 0.005
    kinds = {
        "nginx": (nginx, nginx_port, STREAM),
        "frames": (service.process, service.port, "/bedrock" + STREAM),
        "events": (service.process, service.port, MESSAGES),
    }
    cost = {kind: [] for kind in kinds}
    headers = {"Authorization": f"Bearer {service.key}"}
    for _ in range(ROUNDS):
        for kind, (process, port, path) in kinds.items():
            before = Used(process.pid)
            took = streams.read_all(
                port, path, headers, STREAMS, EVENTS, 5, sse=kind == "events"
            )
            after = Used(process.pid)
            if took > 1.25 * ideal:
                say(f"  took {took:.2f} s instead of {ideal:.2f}: the load did not keep its pace")
            cost[kind].append((after.cpu - before.cpu) / events * 1e6)
            if kind != "nginx":
                service.answered(STREAMS, "streams")
    say("  µs an event: " + "; ".join(f"{n} {[round(f, 1) for f in fs]}" for n, fs in cost.items()))
    middle = {kind: statistics.median(figures) for kind, figures in cost.items()}
    for kind, name in (("frames", "passed on"), ("events", "made server-sent events")):
        table.add(
            f"CPU for an event, {STREAMS} streams, an event every 5 ms, {name}",
            f"{middle['nginx']:.1f} µs", f"{middle[kind]:.1f} µs",
            median_ratio(cost[kind], cost["nginx"]), 1.2,
        )  # fmt: skip


def memory(table, service, nginx, nginx_port, upstream):
    idle, opened = {}, {}
    for name, path in (("nginx", STREAM), ("frames", "/bedrock" + STREAM), ("events", MESSAGES)):
        if name != "nginx":
            service.start(upstream)  # anew, or it would have what the streams before it left behind
            time.sleep(1)
        pid = nginx.pid if name == "nginx" else service.process.pid
        port = nginx_port if name == "nginx" else service.port
        headers = {"Authorization": f"Bearer {service.key}"} if name != "nginx" else {}
        idle[name] = rss_kib(pid)

        def look(name=name, pid=pid):
            time.sleep(1)  # events go on meanwhile
            opened[name] = rss_kib(pid)

        streams.read_all(port, path, headers, OPEN_STREAMS, 8, 500, look, name == "events")
        if name != "nginx":
            service.answered(OPEN_STREAMS, "open streams")
            service.stop()
    each = {name: (opened[name] - idle[name]) / OPEN_STREAMS for name in opened}
    mib = lambda kib: f"{kib / 1024:.1f} MiB"
    table.add(
        "Memory, idle", mib(idle["nginx"]), mib(idle["frames"]),
        target=(idle["frames"] / 1024, 20, "MiB"),
    )  # fmt: skip
    for name, what in (("frames", "passed on"), ("events", "made server-sent events")):
        table.add(
            f"Memory, {OPEN_STREAMS} open streams, {what}", mib(opened["nginx"]), mib(opened[name]),
            target=(opened[name] / 1024, 64, "MiB"),
        )  # fmt: skip
        table.add(
            f"Memory for an open stream, {what}", f"{each['nginx']:.1f} KiB", f"{each[name]:.1f} KiB",
            target=(each[name], 32, "KiB"),
        )  # fmt: skip


def start(table, service, upstream, binary):
    times = []
    for _ in range(STARTS):
        times.append(service.start(upstream, core=None) * 1000)
        service.stop()
    say(f"  {', '.join(f'{figure:.0f}' for figure in times)} ms")
    middle = statistics.median(times)
    table.add(
        f"From start to ready, existing SQLite database ({service.rows} rows)",
        "", f"{middle:.0f} ms", target=(middle, 60, "ms"),
    )  # fmt: skip
    size = binary.stat().st_size / 1e6
    table.add("Release binary", "", f"{size:.1f} MB", target=(size, 25, "MB"))


# The run


def run(parts, binary, processes, table):
    service = Service(processes, binary)
    plain, paced = processes.plain_upstream(), processes.paced_upstream()
    nginx, nginx_port = processes.plain_proxy(plain, paced)
    if "memory" in parts:
        say(f"memory with {OPEN_STREAMS} open streams")
        memory(table, service, nginx, nginx_port, paced)
    if "calls" in parts or "latency" in parts:
        service.start(plain)
        if "latency" in parts:
            say(f"latency at {CALLS_A_SECOND} calls/s")
            latency(table, service, nginx_port, plain)
        if "calls" in parts:
            for size, name, target in ((SMALL, "1 KiB", 1.8), (LARGE, "128 KiB", 2.0)):
                say(f"calls of {name}, {CONNECTIONS} connections")
                calls(table, service, nginx, nginx_port, plain, size, name, target)
        service.stop()
    if "streams" in parts:
        say(f"{STREAMS} streams of {EVENTS} events, one every 5 ms")
        service.start(paced)
        paced_streams(table, service, nginx, nginx_port)
        service.stop()
    if "start" in parts:
        say("start-up")
        start(table, service, plain, binary)
    return service.rows


def conditions(binary, seconds, rows, load_before):
    def first(command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return (done.stdout + done.stderr).strip().splitlines()[0]

    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    return (
        f"Conditions: {len(CORES)} cores ({model[1] if model else platform.machine()}), Linux "
        f"{platform.release()}; {first([str(binary), '--version'])}, one worker, SQLite, everything on; "
        f"{first([nginx, '-v']).rpartition(': ')[2]}, one worker, upstream keep-alive, no access log; "
        f"{first(['wrk', '-v']).partition(' [')[0]}, {CONNECTIONS} connections. Server on core "
        f"{SERVER_CORE}, load and upstream on core {LOAD_CORE}, loopback. Medians of {ROUNDS} rounds of "
        f"{SECONDS} s (streams: of {EVENTS} events each); CPU time is user and system time of all "
        f"threads. Load average {load_before:.1f} before. Took {seconds:.0f} s; {rows} answers, as many "
        "usage rows, no error, no incomplete stream."
    )


def main(arguments):
    unknown = [part for part in arguments if part not in PARTS]
    if unknown:
        raise Broken(f"there is no part {unknown[0]}: {' '.join(PARTS)}")
    binary = pathlib.Path(os.environ["BENCH_BINARY"]).resolve()
    load_before = os.getloadavg()[0]
    if len(CORES) == 1:
        say("there is one core only: load and server share it, and latency says little")
    elif load_before > 0.5:
        say(f"this machine is busy (load average {load_before:.1f}): trust ratios more than figures")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16384), most))
    os.sched_setaffinity(0, [LOAD_CORE])
    gc.disable()  # no pauses between two events
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bedrock-proxy-bench."))
    processes, table = Processes(folder), Table()
    began = time.monotonic()
    try:
        rows = run(arguments or PARTS, binary, processes, table)
    finally:
        processes.stop_all()
        if os.environ.get("BENCH_KEEP"):
            shutil.copytree(folder, os.environ["BENCH_KEEP"], dirs_exist_ok=True)
        shutil.rmtree(folder)
    print(table.markdown())
    print()
    print(conditions(binary, time.monotonic() - began, rows, load_before))
    if table.missed:
        say(f"missed: {'; '.join(table.missed)}")
    return 1 if STRICT and table.missed else 0


def interrupted(number, _frame):
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupted)
    try:
        sys.exit(main(sys.argv[1:]))
    except (Broken, streams.Failed) as error:
        say(f"FAILED: {error}")
        sys.exit(1)
