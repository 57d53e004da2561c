"""Measures the service with millions of calls: pages of usage, summaries, export, recording, a day of a million.

`scripts/bench-data` is the way to run it. The data are made once and stay; each figure is the median over several
requests to the real binary over HTTP, on one database after the other. What is measured changes nothing, but for
`recorder` and `day`, which have databases of their own.
"""

import datetime
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.parse

BINARY = os.path.abspath(os.environ["BENCH_BINARY"])
DATA = pathlib.Path(os.environ["BENCH_DATA"])
CALLS = int(os.environ["BENCH_CALLS"])
PEOPLE = int(os.environ["BENCH_PEOPLE"])
BACKENDS = os.environ["BENCH_BACKENDS"].split()
PARTS = ("queries", "export", "recorder", "day")
ADMIN = "admin@example.com"
DAY_CALLS = int(os.environ.get("BENCH_DAY_CALLS", 1_000_000))
RECORDED = int(os.environ.get("BENCH_RECORDED", 200_000))
TIMES = 7


def environment(url, folder, **more):
    base = {
        "PATH": os.environ["PATH"],
        "BEDROCK_DATABASE__URL": url,
        "BEDROCK_JWT__SECRET": "a-secret-for-measuring-with-more-than-32-bytes",
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


main()
