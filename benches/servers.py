"""Starts and stops what is measured and what it stands before, and reads what it used."""

import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time

from streams import INPUT_TOKENS, OUTPUT_TOKENS

HERE = pathlib.Path(__file__).parent
MODEL = "us.anthropic.claude-sonnet-4-20250514-v1:0"
INVOKE = f"/model/{MODEL}/invoke"
STREAM = f"/model/{MODEL}/invoke-with-response-stream"
EMAIL = "bench@example.com"
TICKS = os.sysconf("SC_CLK_TCK")

#: The load and upstream share a core; what is measured has another to itself.
CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE, SERVER_CORE = (CORES[0], CORES[1]) if len(CORES) > 1 else (CORES[0], CORES[0])

NGINX = """\
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/{name}.pid;
error_log {folder}/{name}.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    server_tokens off;
    tcp_nodelay on;
    keepalive_timeout 60s;
    keepalive_requests 1000000000;
    client_max_body_size 16m;
    client_body_buffer_size 256k;
    client_body_temp_path {folder}/{name}-body;
    proxy_temp_path {folder}/{name}-proxy;
    fastcgi_temp_path {folder}/{name}-fastcgi;
    uwsgi_temp_path {folder}/{name}-uwsgi;
    scgi_temp_path {folder}/{name}-scgi;
    {rest}
}}
"""

# A cheap Bedrock: the same answer to everything. `mirror` makes nginx read the whole request first.
UPSTREAM = """\
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            mirror /sink;
            empty_gif; # not for a POST: 405, at no cost
            error_page 405 =200 /answer;
        }}
        location = /sink {{ internal; return 204; }}
        location = /answer {{
            internal;
            default_type application/json;
            add_header x-amzn-requestid 7a9f5b3e-2f0c-4f0e-9c5d-6b1d3c2e8a10;
            return 200 '{answer}';
        }}
    }}
"""

PROXY = """\
    upstream calls {{
        server 127.0.0.1:{calls};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    upstream streams {{
        server 127.0.0.1:{streams};
        keepalive 2048;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        location / {{ proxy_pass http://calls; }}
        location ~ /invoke-with-response-stream$ {{
            proxy_pass http://streams;
            proxy_buffering off;
        }}
    }}
"""


class Broken(Exception):
    """The measurement is void: something was lost, failed or did not start."""


class Used:
    """What a process has used so far."""

    def __init__(self, pid):
        # After the name, which may hold anything but ends with the last bracket.
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.cpu = (int(fields[11]) + int(fields[12])) / TICKS
        self.user = int(fields[11]) / TICKS
        self.at = time.monotonic()


def rss_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise Broken(f"process {pid} is gone")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Broken(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def answer():
    """What Claude answers to `InvokeModel`, about 1 KiB."""
    text = "The quick brown fox jumps over the lazy dog. " * 15
    return (
        '{"id":"msg_bdrk_bench","type":"message","role":"assistant",'
        '"model":"claude-sonnet-4-20250514","content":[{"type":"text","text":"' + text + '"}],'
        '"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":'
        f'{INPUT_TOKENS},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,'
        f'"output_tokens":{OUTPUT_TOKENS}}}}}'
    )


class Processes:
    """All that was started; ended by id, also after a failure."""

    def __init__(self, folder):
        self.folder = folder
        self.running = []

    def start(self, name, arguments, core, environment=None, output=None):
        with open(output or self.folder / f"{name}.out", "ab") as out:
            process = subprocess.Popen(
                [str(argument) for argument in arguments],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                cwd=self.folder, env=environment,
                preexec_fn=lambda: os.sched_setaffinity(0, core),
            )  # fmt: skip
        self.running.append(process)
        return process

    def stop(self, process, within=15):
        """Ends a process in its own way. Answers its exit code."""
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(within)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Broken(f"{process.args[0]} did not end within {within} s") from None
        finally:
            self.running.remove(process)
        return code

    def stop_all(self):
        for process in reversed(self.running):
            process.kill()
            process.wait()
        self.running.clear()

    def nginx(self, name, rest, port, core):
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        conf = self.folder / f"{name}.conf"
        conf.write_text(NGINX.format(folder=self.folder, name=name, rest=rest))
        arguments = [nginx, "-p", self.folder, "-e", self.folder / f"{name}.log", "-c", conf]
        process = self.start(name, arguments, [core])
        wait_until(lambda: listens(port) or process.poll() is not None, 10, name)
        if process.poll() is not None:
            raise Broken(f"{name}: {(self.folder / f'{name}.out').read_text().strip()}")
        return process

    def plain_upstream(self):
        port = free_port()
        rest = UPSTREAM.format(port=port, answer=answer())
        self.nginx("upstream", rest, port, LOAD_CORE)
        return port

    def paced_upstream(self):
        port = free_port()
        self.start("paced", [sys.executable, HERE / "streams.py", port], [LOAD_CORE])
        wait_until(lambda: listens(port), 10, "the upstream of the streams")
        return port

    def plain_proxy(self, calls, streams):
        port = free_port()
        rest = PROXY.format(port=port, calls=calls, streams=streams)
        return self.nginx("nginx", rest, port, SERVER_CORE), port


class Service:
    """The service on one database, with one worker and otherwise its defaults."""

    def __init__(self, processes, binary):
        self.processes, self.binary = processes, binary
        self.folder = processes.folder
        self.database = self.folder / "bench.db"
        self.log = self.folder / "service.log"
        self.process, self.port, self.rows = None, None, 0
        own = {k: v for k, v in os.environ.items() if not k.startswith(("BEDROCK_", "AWS_"))}
        self.environment = own | {
            "BEDROCK_JWT__SECRET": "a secret for measurements, of no use to anybody",
            "BEDROCK_DATABASE__URL": f"sqlite://{self.database}",
            "BEDROCK_SERVER__HOST": "127.0.0.1",
            "BEDROCK_SERVER__WORKERS": "1",
            "BEDROCK_METRICS__PORT": "0",
            "BEDROCK_AWS__REGION": "us-east-1",
            "BEDROCK_AWS__ACCESS_KEY_ID": "AKIDEXAMPLE",
            "BEDROCK_AWS__SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        }
        self.command("init")
        self.command("user", "create", EMAIL)
        self.key = self.command("key", "create", EMAIL, "--name", "bench")
        self.token = self.command("user", "token", EMAIL)

    def command(self, *arguments):
        done = subprocess.run(
            [self.binary, *arguments], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise Broken(f"bedrock_proxy {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def start(self, upstream, core=SERVER_CORE):
        """Starts it and answers how many seconds it took to be ready."""
        self.port = free_port()
        environment = self.environment | {
            "BEDROCK_SERVER__PORT": str(self.port),
            "BEDROCK_AWS__ENDPOINT_URL": f"http://127.0.0.1:{upstream}",
        }
        cores = CORES if core is None else [core]
        began = time.monotonic()
        self.process = self.processes.start(
            "service", [self.binary], cores, environment, output=self.log
        )
        while not self.is_ready():
            if time.monotonic() - began > 10 or self.process.poll() is not None:
                raise Broken(f"the service does not get ready:\n{self.log_tail()}")
            time.sleep(0.001)
        return time.monotonic() - began

    def is_ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(
                    b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                return connection.recv(4096).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def stop(self):
        """A graceful stop, after which every row is in the database and the journal is gone."""
        code = self.processes.stop(self.process, within=60)
        if code != 0:
            raise Broken(f"the service ended with {code}:\n{self.log_tail()}")
        left = list((self.folder / "journal").glob("*.journal"))
        if left:
            raise Broken(f"{len(left)} journal files are left after a graceful stop")
        self.check_log()
        self.check_rows()

    def query(self, sql):
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(sql).fetchone()
        finally:
            connection.close()

    def answered(self, count, what):
        """`count` more calls were answered: each has its row, and there is no other."""
        self.rows += count
        arrived = lambda: self.query("SELECT count(*) FROM usage_records")[0] >= self.rows
        try:
            wait_until(arrived, 10, what)
        except Broken:
            pass  # the comparison says it better
        self.check_rows(what)
        self.check_log()

    def check_rows(self, what="after the stop"):
        rows, sound, tokens_in, tokens_out = self.query(
            "SELECT count(*), count(*) FILTER (WHERE outcome = 'success' AND status = 200 "
            "AND NOT estimated AND upstream_attempts = 1), "
            "sum(input_tokens), sum(output_tokens) FROM usage_records"
        )
        if rows != self.rows:
            raise Broken(f"{what}: {self.rows} answers, but {rows} usage rows")
        if sound != rows:
            bad = self.query(
                "SELECT outcome, status, estimated, upstream_attempts, error_message, count(*) "
                "FROM usage_records WHERE NOT (outcome = 'success' AND status = 200 "
                "AND NOT estimated AND upstream_attempts = 1) GROUP BY 1, 2, 3, 4, 5"
            )
            raise Broken(f"{what}: {rows - sound} of {rows} rows are no plain success: {bad}")
        if rows and (tokens_in, tokens_out) != (rows * INPUT_TOKENS, rows * OUTPUT_TOKENS):
            raise Broken(f"{what}: {tokens_in} and {tokens_out} tokens in {rows} rows")

    def check_log(self):
        """No warning and no error; what was read is thrown away, for it is much."""
        with open(self.log, "rb+") as log:
            for line in log:
                if b'"level":"ERROR"' in line or b'"level":"WARN"' in line:
                    raise Broken(f"the service complains: {line.decode(errors='replace')}")
            log.truncate(0)  # the service appends

    def log_tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
