"""Backup while serving, loss of everything, restore: no call is lost that was answered before the backup, and access that was
taken away after it stays away (REL-24). Once on SQLite and once on Postgres.

Arguments: the binary, and the URL of a Postgres database in which others may be created. It starts the service with a
Bedrock of its own that answers each call with known tokens. Controls show that the drill can fail: without the trail a
revoked key is accepted again, and without the journal calls are missing.
"""

import contextlib
import http.server
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
TOKENS = {"input_tokens": 11, "output_tokens": 7}
WAIT = 50  # seconds after which a wait has failed
BATCH = 400


class Bedrock(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"type": "message", "usage": TOKENS}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(what, asked):
    """Waits until `asked` answers something true, and answers that."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if answer := asked():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {WAIT} s")


class Sqlite:
    def __init__(self, folder):
        self.file = folder / "data" / "bedrock_sso.db"
        self.url = f"sqlite://{self.file}"

    def rows(self, sql):
        with contextlib.closing(sqlite3.connect(self.file)) as conn:
            return conn.execute(sql).fetchall()


class Postgres:
    def __init__(self, server, name):
        self.server, self.name = server, name
        self.url = urllib.parse.urlsplit(server)._replace(path=f"/{name}").geturl()
        self.say(server, f'CREATE DATABASE "{name}"')

    @staticmethod
    def say(url, sql):
        done = subprocess.run(["psql", "-X", "-w", "-At", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql],
                              check=True, capture_output=True, text=True)
        return [tuple(line.split("\t")) for line in done.stdout.splitlines()]

    def rows(self, sql):
        return [tuple(int(cell) if cell.isdigit() else cell for cell in row) for row in self.say(self.url, sql)]

    def drop(self):
        self.say(self.server, f'DROP DATABASE "{self.name}" WITH (FORCE)')


class Host:
    """A machine with an installation: a folder, a database, and the service while it runs."""

    def __init__(self, binary, folder, database, upstream, secret):
        self.binary, self.folder, self.database = binary, folder, database
        folder.mkdir()
        self.port = free_port()
        self.process = None
        self.environment = {
            "PATH": os.environ["PATH"],
            "BEDROCK_SERVER__HOST": "127.0.0.1",
            "BEDROCK_SERVER__PORT": str(self.port),
            "BEDROCK_METRICS__ENABLED": "false",
            "BEDROCK_JWT__SECRET": secret,
            "BEDROCK_DATABASE__URL": database.url,
            "BEDROCK_USAGE__JOURNAL_DIR": str(folder / "journal"),
            # Rows go into the database by BATCH, never by time, so that the backup finds some there and some in the journal alone.
            "BEDROCK_USAGE__BATCH_DELAY_MS": "60000",
            "BEDROCK_USAGE__BATCH_SIZE": str(BATCH),
            "AWS_EC2_METADATA_DISABLED": "true",  # nothing off this machine is asked
            "BEDROCK_AWS__REGION": "us-east-1",
            "BEDROCK_AWS__BEARER_TOKEN": "upstream",
            "BEDROCK_AWS__ENDPOINT_URL": upstream,
            "BEDROCK_PROXY": str(binary),
        }

    def run(self, *command, fails=False):
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        if (done.returncode != 0) != fails:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip() if not fails else done.stderr

    def operate(self, *command):
        return self.run(self.binary, *command)

    def start(self):
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen([self.binary], cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        until("readiness", lambda: self.get("/health/ready", None) == 200)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(WAIT)
        self.process = None

    def get(self, path, key):
        return self.ask("GET", path, key, None)[0]

    def call(self, key):
        return self.ask("POST", f"/bedrock/model/{MODEL}/invoke", key,
                        b'{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,"messages":[]}')

    def ask(self, method, path, key, body):
        """The status, and the id of the request; (0, None) if there is no answer."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if body:
            headers["content-type"] = "application/json"
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                answer.read()
                return answer.status, answer.headers["x-request-id"]
        except urllib.error.HTTPError as error:
            return error.code, None
        except OSError:
            return 0, None

    def recorded(self):
        rows = self.database.rows("SELECT request_id FROM usage_records")
        assert len(rows) == len(set(rows)), "a call has two rows"
        return {request for request, in rows}


class Load(threading.Thread):
    """Calls, one after another, until it is told to stop. `answered` has the ids of those that got their answer."""

    def __init__(self, host, key):
        super().__init__(daemon=True)
        self.host, self.key, self.answered, self.over = host, key, [], threading.Event()
        self.start()

    def run(self):
        while not self.over.is_set():
            status, request = self.host.call(self.key)
            if status == 200:
                self.answered.append(request)

    def end(self):
        self.over.set()
        self.join()


def sums_agree(host):
    """Hours are the sums of their rows, and rows have the tokens that upstream told."""
    rows = host.database.rows(
        "SELECT count(*), sum(input_tokens), sum(output_tokens) FROM usage_records WHERE outcome = 'success'")
    hours = host.database.rows(
        "SELECT sum(requests - errors), sum(input_tokens), sum(output_tokens) FROM usage_summaries"
        " WHERE period_type = 'hourly' AND detail = 'everybody'")
    assert rows == hours, f"rows {rows}, hours {hours}"
    count = rows[0][0]
    assert rows[0][1:] == (count * TOKENS["input_tokens"], count * TOKENS["output_tokens"]), rows


def drill(kind, host, another):
    host.operate("init")
    host.start()
    people = {name: host.operate("user", "create", f"{name}@example.com") for name in ("stays", "leaves", "ends")}
    keys = {name: host.operate("key", "create", f"{who}@example.com", "--name", name)
            for name, who in [("good", "stays"), ("lost", "stays"), ("old", "stays"), ("later", "stays"), ("leaver", "leaves")]}
    ids = dict(host.database.rows("SELECT name, id FROM api_keys"))
    token = host.operate("user", "token", "stays@example.com")
    for name, key in keys.items():
        assert host.call(key)[0] == 200, name
    assert host.get("/auth/me", token) == 200
    backups = host.folder.parent / f"{kind}-backups"

    loads = [Load(host, keys["good"]) for _ in range(3)]
    until("load", lambda: sum(len(load.answered) for load in loads) >= BATCH + 100)
    before = {request for load in loads for request in list(load.answered)}
    backup = pathlib.Path(host.run(SCRIPTS / "backup", backups).splitlines()[-1])
    during = sum(len(load.answered) for load in loads) - len(before)
    host.operate("key", "revoke", str(ids["lost"]))
    host.operate("user", "state", people["leaves"], "disabled")
    rotated = host.ask("POST", f"/api/keys/{ids['old']}/rotate", token, b'{"overlap_seconds":3600}')[0]
    assert rotated == 201, rotated
    end = host.database.rows(f"SELECT expires_at FROM api_keys WHERE id = {ids['old']}")
    host.run(SCRIPTS / "backup", "--trail", backups)
    with open(backups / "revocations.tsv", "a") as trail: # as the service writes it when a provider says no
        trail.write(f'999\t2026-01-01 00:00:00\tuser_state_changed\t{people["ends"]}\tuser:{people["ends"]}'
                    '\t{"after":"expired","before":"active"}\tno-hash-of-ours\n')
    for load in loads:
        load.end()
    host.stop(signal.SIGKILL)

    # Control: with a trail that knows nothing, what was revoked is accepted; without the journal, calls are missing.
    control = another("control")
    poor = shutil.copytree(backup, backups / "poor")
    shutil.rmtree(poor / "journal")
    (poor / "journal").mkdir()
    sums = (poor / "checksums").read_text().splitlines(keepends=True)
    (poor / "checksums").write_text("".join(line for line in sums if "/journal/" not in line))
    shutil.copy(backup / "revocations.tsv", backups / "empty.tsv")  # which knows what the backup knows
    control.run(SCRIPTS / "restore", "--trail", backups / "empty.tsv", poor)
    control.start()
    assert control.call(keys["lost"])[0] == 200, "the drill would not notice a revocation that is not replayed"
    control.stop()
    missing = before - control.recorded()
    assert missing, "the drill would not notice a journal that is not restored"
    assert missing < before, "the database's copy holds nothing"

    # A damaged backup is refused, and so is one into a place that is not empty.
    (poor / "manifest").write_text("kind=sqlite\nnewest_audit_id=0\n")
    assert "damaged" in control.run(SCRIPTS / "restore", poor, fails=True)
    occupied = {"sqlite": "move it", "postgres": "make an empty one"}[kind]
    assert occupied in control.run(SCRIPTS / "restore", backup, fails=True)

    other = {"sqlite": "postgres://nobody@127.0.0.1:1/none", "postgres": f"sqlite://{host.folder}/none.db"}[kind]
    told = control.run("env", f"BEDROCK_DATABASE__URL={other}", SCRIPTS / "restore", backup, fails=True)
    assert f"the backup is of {kind}, the database is" in told, told

    fresh = another("fresh")
    fresh.run(SCRIPTS / "restore", backup)
    fresh.start()
    until("the calls of the journal", lambda: before <= fresh.recorded())
    assert fresh.call(keys["lost"])[0] == 401, "a key that was revoked after the backup"
    assert fresh.call(keys["leaver"])[0] == 401, "a key of somebody who was disabled after the backup"
    state = fresh.database.rows(f"SELECT state FROM users WHERE id = {people['ends']}")
    assert state == [("expired",)], state
    restored = fresh.database.rows(f"SELECT expires_at FROM api_keys WHERE id = {ids['old']}")
    assert restored[0][0][:19] == end[0][0][:19], f"a key that was replaced after the backup ends {restored}, not {end}"
    assert fresh.get("/auth/me", token) == 401, "a session from before the restore"
    assert fresh.call(keys["good"])[0] == 200, "a key that is good"
    fresh.operate("audit", "verify")

    # Moving house: stopped, backed up, restored; then every answer there ever was has its row.
    load = Load(fresh, keys["good"])
    until("load", lambda: len(load.answered) >= 50)
    load.end()
    fresh.stop()
    known = fresh.recorded()
    assert set(load.answered) <= known
    last = pathlib.Path(fresh.run(SCRIPTS / "backup", backups).splitlines()[-1])
    fresh.operate("key", "revoke", str(ids["later"]))
    fresh.run(SCRIPTS / "backup", "--trail", backups)
    moved = another("moved")
    # The trail from before the first restore has other events under the same numbers.
    [old] = backups.glob("revocations-until-*.tsv")
    assert "is not the trail of this backup" in moved.run(SCRIPTS / "restore", "--trail", old, last, fails=True)
    # Settings that the binary cannot use are told before anything is loaded.
    told = moved.run("env", "BEDROCK_JWT__SECRET=short", SCRIPTS / "restore", last, fails=True)
    assert "jwt.secret" in told, told
    moved.run(SCRIPTS / "restore", last)
    moved.start()
    assert moved.call(keys["later"])[0] == 401, "a key that was revoked after a restore and a backup"
    until("all calls", lambda: moved.recorded() >= known)
    moved.stop()
    assert moved.recorded() == known
    sums_agree(moved)
    print(f"{kind}: {len(before)} calls answered before the backup and {during} during it; "
          f"{len(missing)} of the former came from the journal; {len(known)} calls after the move")


def main(binary, server):
    binary = pathlib.Path(binary).resolve()
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bedrock)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{upstream.server_port}"
    for kind in ("sqlite", "postgres"):
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as over:
            secret = secrets.token_urlsafe(48)

            def another(name, folder=pathlib.Path(folder), kind=kind, secret=secret, over=over):
                if kind == "sqlite":
                    database = Sqlite(folder / name)
                else:
                    database = Postgres(server, f"drill_{name}_{os.getpid()}")
                    over.callback(database.drop)
                host = Host(binary, folder / name, database, address, secret)
                over.callback(lambda: host.process and host.stop(signal.SIGKILL))
                return host

            drill(kind, another("first"), another)


if __name__ == "__main__":
    main(*sys.argv[1:])
