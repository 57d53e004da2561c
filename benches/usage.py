"""Measures the service with millions of calls: pages, usage, summaries, export, recording, a day of a million.

`scripts/bench-data` is the way to run it. The data are made once and stay; each figure is the median over several
requests to the real binary over HTTP, on one database after the other. What is measured changes nothing, but for
`recorder` and `day`, which have databases of their own, and `pages`, which signs two people in and out again.
"""

import datetime
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.parse
import uuid

BINARY = os.path.abspath(os.environ["BENCH_BINARY"])
DATA = pathlib.Path(os.environ["BENCH_DATA"])
CALLS = int(os.environ["BENCH_CALLS"])
PEOPLE = int(os.environ["BENCH_PEOPLE"])
BACKENDS = os.environ["BENCH_BACKENDS"].split()
PARTS = ("queries", "pages", "export", "recorder", "day")
ADMIN = "admin@example.com"
DAY_CALLS = int(os.environ.get("BENCH_DAY_CALLS", 1_000_000))
RECORDED = int(os.environ.get("BENCH_RECORDED", 200_000))
TIMES = 7
SECRET = "a-secret-for-measuring-with-more-than-32-bytes"
# A page is to be there within so many milliseconds and bytes, with what it loads the first time.
PAGE_MS, PAGE_BYTES, PAGE_TIMES = 50, 100 * 1024, 40
FAILED = []


def environment(url, folder, **more):
    base = {
        "PATH": os.environ["PATH"],
        "BEDROCK_DATABASE__URL": url,
        "BEDROCK_JWT__SECRET": SECRET,
        "BEDROCK_USAGE__JOURNAL_DIR": str(folder / "journal"),
        "BEDROCK_AWS__REGION": "us-east-1",
        "BEDROCK_AWS__ACCESS_KEY_ID": "unused",
        "BEDROCK_AWS__SECRET_ACCESS_KEY": "unused",
        "BEDROCK_ADMIN__EMAILS": ADMIN,
        "BEDROCK_ADMIN__PROVIDERS": "local",
        "BEDROCK_SERVER__HOST": "127.0.0.1",
        "BEDROCK_METRICS__ENABLED": "false",
        "BEDROCK_JOBS__ENABLED": "false",
        "BEDROCK_LOGGING__LEVEL": "warn",
    }
    return base | more


def command(env, *arguments, quiet=True):
    began = time.monotonic()
    output = subprocess.run(
        [BINARY, *arguments], env=env, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None, text=True,
    )
    if output.returncode != 0:
        sys.exit(f"{arguments} failed: {output.stdout}")
    return output.stdout.strip(), time.monotonic() - began


def place(backend, name):
    """The URL of a database, and a folder beside it."""
    folder = DATA / f"{name}-{backend}"
    folder.mkdir(exist_ok=True)
    if backend == "sqlite":
        return f"sqlite://{folder}/usage.db", folder
    server = os.environ["BENCH_POSTGRES"]
    return server.rsplit("/", 1)[0] + f"/{name}", folder


def sql(statement, database="postgres"):
    server = os.environ["BENCH_POSTGRES"].rsplit("/", 1)[0] + f"/{database}"
    psql = shutil.which("psql") or "psql"
    return subprocess.run([psql, "-X", "-q", "-A", "-t", server, "-c", statement], check=True,
                          stdout=subprocess.PIPE, text=True).stdout.strip()


def prepare(backend, name, *arguments):
    """Fills a database, if that was not done before. Answers its URL, folder and the seconds it took."""
    url, folder = place(backend, name)
    done = folder / "done"
    if done.exists():
        return url, folder, float(done.read_text() or 0)
    if backend == "sqlite":
        for file in folder.glob("usage.db*"):
            file.unlink()
    else:
        sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        sql(f"CREATE DATABASE {name}")
    print(f"filling {name} on {backend}", file=sys.stderr, flush=True)
    _, seconds = command(environment(url, folder), "seed", *arguments, quiet=False)
    if backend == "postgres":
        sql("VACUUM ANALYZE", name)
    done.write_text(str(seconds))
    return url, folder, seconds


class Service:
    """The real binary, serving one database."""

    def __init__(self, url, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        env = environment(url, folder, BEDROCK_SERVER__PORT=str(self.port))
        known, _ = command(env, "user", "list")
        if ADMIN not in known:
            command(env, "user", "create", ADMIN)
        self.token, _ = command(env, "user", "token", ADMIN)
        self.process = subprocess.Popen([BINARY, "serve"], env=env)
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.ask("/health").status == 200:
                    break
            except OSError:
                pass
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit("the service does not start")
            time.sleep(0.05)

    def ask(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
        return connection.getresponse()

    def get(self, path):
        answer = self.ask(path)
        body = answer.read()
        if answer.status != 200:
            sys.exit(f"{path}: {answer.status} {body[:300]}")
        return body

    def rss(self, what="VmRSS"):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+)", status)[1]) / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def timed(service, path):
    """The median of several requests in milliseconds, after one that fills caches."""
    service.get(path)
    times = []
    for _ in range(TIMES):
        began = time.perf_counter()
        service.get(path)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def ranges():
    today = datetime.datetime.now(datetime.timezone.utc).date()
    day = lambda back: (today - datetime.timedelta(days=back)).isoformat()
    return f"start_date={day(30)}", f"start_date={day(90)}", f"start_date={day(400)}"


def queries(backend):
    month, quarter, year = ranges()
    url, folder, _ = prepare(backend, "year", "--people", str(PEOPLE), "--calls", str(CALLS))
    service = Service(url, folder)
    records = "/api/admin/usage/records?limit=50"
    sums = "/api/admin/usage/summaries?limit=50"
    person = "user_id=1"
    model = "model=us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    cursor = json.loads(service.get(records + "&offset=10000"))["next_cursor"]
    asked = {
        "calls, newest 50": records,
        "calls, 10,000 passed over": records + "&offset=10000",
        "calls, by cursor": records + f"&cursor={cursor}",
        "calls of 30 days": f"{records}&{month}",
        "calls of a person": f"{records}&{person}",
        "calls of a person, 30 days": f"{records}&{person}&{month}",
        "calls to a model": f"{records}&{model}",
        "calls that timed out": f"{records}&outcome=timeout",
        "calls in a region": f"{records}&region=ap-northeast-1",
        "days by model, 30 days": f"{sums}&period_type=daily&{month}",
        "days by model, 90 days": f"{sums}&period_type=daily&{quarter}",
        "days by person, 90 days": f"{sums}&period_type=daily&group_by=user&{quarter}",
        "days by key and model, 90 days": f"{sums}&period_type=daily&group_by=key,model&{quarter}",
        "hours by model, a week": f"{sums}&period_type=hourly",
        "weeks by model, a year": f"{sums}&period_type=weekly&{year}",
        "weeks by person, a year": f"{sums}&period_type=weekly&group_by=user&{year}",
        "months by region, a year": f"{sums}&period_type=monthly&group_by=region&{year}",
        "total by model, 30 days": f"{sums}&period_type=total&{month}",
        "total by person, 30 days": f"{sums}&period_type=total&group_by=user&{month}",
        "total by model, a year": f"{sums}&period_type=total&{year}",
        "total by person, a year": f"{sums}&period_type=total&group_by=user&{year}",
        "a person's days by model, 90 days": f"{sums}&period_type=daily&{person}&{quarter}",
        "a person's total, a year": f"{sums}&period_type=total&{person}&{year}",
        "models without a price": "/api/admin/models/unpriced",
        "prices": "/api/admin/costs",
        "jobs": "/api/admin/jobs",
    }
    figures = {name: timed(service, path) for name, path in asked.items()}
    figures["memory of the service afterwards, MiB"] = service.rss()
    service.stop()
    return figures


class Rows:
    """The service's database, behind its back."""

    def __init__(self, backend, url):
        self.file = url.removeprefix("sqlite://") if backend == "sqlite" else None
        self.name = url.rsplit("/", 1)[1]

    def run(self, statement):
        if self.file is None:
            return [line.split("|") for line in sql(statement, self.name).splitlines()]
        connection = sqlite3.connect(self.file, timeout=30)
        with connection:
            rows = connection.execute(statement).fetchall()
        connection.close()
        return rows


class Visit:
    """A browser in which somebody is signed in: a session as a sign-in makes it (`auth::sign_in`, `auth::keys`)."""

    def __init__(self, service, rows, user_id):
        self.rows, self.id, cookie = rows, str(uuid.uuid4()), secrets.token_urlsafe(32)
        extracted = hmac.digest(b"bedrock-sso-proxy", SECRET.encode(), hashlib.sha256)
        key = hmac.digest(extracted, b"bedrock-sso-proxy/session/1\x01", hashlib.sha256)
        digest = hmac.digest(key, cookie.encode(), hashlib.sha256).hex()
        binary = f"X'{digest}'" if rows.file else f"'\\x{digest}'"
        now = datetime.datetime.now(datetime.timezone.utc)
        now, end = (f"{time:%F %T}" for time in (now, now + datetime.timedelta(hours=8)))
        rows.run("INSERT INTO sessions (id, user_id, kind, digest, created_at, last_seen_at, expires_at) "
                 f"VALUES ('{self.id}', {user_id}, 'browser', {binary}, '{now}', '{now}', '{end}')")
        self.headers = {"Cookie": f"bedrock_session={cookie}", "Accept": "text/html"}
        self.connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=600)

    def get(self, path):
        """The status, the body, and the bytes that came."""
        self.connection.request("GET", path, headers=self.headers)
        answer = self.connection.getresponse()
        head = sum(len(name) + len(value) + 4 for name, value in answer.getheaders())
        body = answer.read()
        return answer.status, body, head + len(body)

    def end(self):
        self.connection.close()
        self.rows.run(f"DELETE FROM sessions WHERE id = '{self.id}'")


def pages(backend):
    url, folder, _ = prepare(backend, "year", "--people", str(PEOPLE), "--calls", str(CALLS))
    service, rows = Service(url, folder), Rows(backend, url)
    most = rows.run("SELECT user_id FROM usage_summaries WHERE period_type = 'weekly' AND detail = 'person' "
                    "GROUP BY user_id ORDER BY SUM(requests) DESC LIMIT 1")[0][0]
    admin = rows.run(f"SELECT id FROM users WHERE email = '{ADMIN}'")[0][0]
    day = lambda back: (datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=back)).isoformat()
    quarter = f"from={day(89)}&to={day(0)}"
    asked = {
        most: ["/", "/usage", f"/usage?{quarter}", "/usage?outcome=timeout", "/usage?group=key", "/connect", "/keys",
               "/sessions", "/usage/calls/{call}"],
        admin: ["/", "/admin", "/admin?days=7", "/admin?days=90", "/admin/usage", f"/admin/usage?{quarter}",
                "/admin/usage?group=person", f"/admin/usage?group=person&{quarter}", "/admin/usage?outcome=timeout",
                f"/admin/usage?user_id={most}&group=key", "/admin/users", f"/admin/users/{most}", "/admin/costs",
                "/admin/costs/unpriced", "/admin/streams", "/admin/jobs", "/admin/audit", "/admin/health"],
    }
    figures = {}
    try:
        for who, paths in asked.items():
            visit = Visit(service, rows, who)
            try:
                for path in paths:
                    figures |= page(backend, visit, path)
            finally:
                visit.end()
    finally:
        service.stop()
    return figures


def page(backend, visit, path):
    """How long one page takes, and how much it sends."""
    if "{call}" in path:
        _, list_of_calls, _ = visit.get("/usage")
        path = re.search(rb'/usage/calls/\d+', list_of_calls)[0].decode()
    status, body, sent = visit.get(path)
    if status == 404:
        return {}
    if status != 200:
        sys.exit(f"{path}: {status} {body[:300]}")
    loaded = re.findall(rb'(?:href|src)="(/static/[^"]+)"', body)
    sent += sum(visit.get(file.decode())[2] for file in set(loaded))
    times = []
    for _ in range(PAGE_TIMES):
        began = time.perf_counter()
        visit.get(path)
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    middle, late = statistics.median(times), times[int(len(times) * 0.95)]
    name = re.sub(r"\d{4}-\d\d-\d\d", "DAY", re.sub(r"/calls/\d+", "/calls/{id}", path))
    if middle > PAGE_MS or sent > PAGE_BYTES:
        FAILED.append(f"{name} on {backend}: {middle:.1f} ms, {sent / 1024:.0f} KiB")
    return {f"`{name}`, p50 ms": middle, f"`{name}`, p95 ms": late, f"`{name}`, KiB": sent / 1024}


def export(backend):
    month, _, _ = ranges()
    url, folder, _ = prepare(backend, "year", "--people", str(PEOPLE), "--calls", str(CALLS))
    service = Service(url, folder)
    service.get("/api/admin/usage/records?limit=1")
    before = service.rss()
    figures = {}
    for format in ("csv", "jsonl"):
        began = time.monotonic()
        answer = service.ask(f"/api/admin/usage/export?format={format}&{month}")
        lines = 0
        while piece := answer.read(1 << 18):
            lines += piece.count(b"\n")
        seconds = time.monotonic() - began
        figures[f"export as {format}, rows/s"] = lines / seconds
        figures[f"export as {format}, rows"] = lines
    figures["export, most memory, MiB"] = service.rss("VmHWM")
    figures["export, memory before, MiB"] = before
    service.stop()
    return figures


def recorder(backend):
    """`benches/recorder.rs` does it: rows through the real recorder, into a database of its own."""
    url, folder = place(backend, "recorder")
    if backend == "sqlite":
        for file in folder.glob("usage.db*"):
            file.unlink()
    else:
        sql("DROP DATABASE IF EXISTS recorder WITH (FORCE)")
        sql("CREATE DATABASE recorder")
    shutil.rmtree(folder / "journal", ignore_errors=True)
    env = os.environ | {"BENCH_DATABASE_URL": url, "BENCH_JOURNAL": str(folder / "journal"),
                        "BENCH_RECORDED": str(RECORDED)}
    output = subprocess.run(["cargo", "bench", "--locked", "--bench", "recorder"], env=env, check=True,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return {name: float(value) for name, value in re.findall(r"^(.+): ([\d.]+)$", output, re.M)}


def day(backend):
    url, folder, _ = prepare(backend, "day", "--people", "2000", "--days", "1", "--calls", str(DAY_CALLS))
    env = environment(url, folder)
    figures = {}
    for name, arguments in {
        "a day of 1,000,000 calls: hours from rows, s": ("--period", "hourly", "--days-back", "2"),
        "a day of 1,000,000 calls: days from hours, s": ("--period", "daily", "--days-back", "2"),
    }.items():
        if backend == "sqlite":
            # As if they had never been built: everything is worked out and written anew.
            wipe = "DELETE FROM usage_summaries WHERE period_type = '{}'".format(arguments[1])
            subprocess.run([sys.executable, "-c",
                            "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()",
                            str(folder / "usage.db"), wipe], check=True)
        else:
            sql("DELETE FROM usage_summaries WHERE period_type = '{}'".format(arguments[1]), "day")
        said, seconds = command(env, "job", "summaries", *arguments)
        print(said, file=sys.stderr, flush=True)
        figures[name] = seconds
    return figures


def main():
    parts = sys.argv[1:] or PARTS
    unknown = set(parts) - set(PARTS)
    if unknown:
        sys.exit(f"unknown part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    rows = {}
    for part in parts:
        for backend in BACKENDS:
            for name, value in globals()[part](backend).items():
                rows.setdefault(name, {})[backend] = value
    print("| Figure | " + " | ".join(BACKENDS) + " |")
    print("|---|" + "---|" * len(BACKENDS))
    for name, values in rows.items():
        shown = [f"{values[b]:,.1f}" if b in values else "–" for b in BACKENDS]
        print(f"| {name} | " + " | ".join(shown) + " |")
    if FAILED:
        sys.exit(f"pages that are too slow or too large (at most {PAGE_MS} ms and {PAGE_BYTES // 1024} KiB):\n"
                 + "\n".join(FAILED))


main()
