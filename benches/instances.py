"""Measures what instances cost that act as one: CPU for a call, with one and with three of them, and what Postgres and Redis
take for it.

`scripts/bench instances` is the way to run it: it starts the Postgres and the Redis that are measured. All servers share a
core, load and upstream have another, so that what is compared is CPU time and no speed. After each load the usage rows must
be the answers; else the run fails.
"""

import http.client
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import bench
from servers import CORES, EMAIL, INVOKE, LOAD_CORE, SERVER_CORE, TICKS
from servers import Broken, Processes, Used, free_port, wait_until

SECONDS = int(os.environ.get("BENCH_SECONDS", 4))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 3))
POSTGRES, REDIS = os.environ["BENCH_POSTGRES"], os.environ["BENCH_REDIS"]
POSTGRES_PID, REDIS_PID = int(os.environ["BENCH_POSTGRES_PID"]), int(os.environ["BENCH_REDIS_PID"])


def sql(statement, database="postgres"):
    url = POSTGRES.rsplit("/", 1)[0] + f"/{database}"
    done = subprocess.run(
        ["psql", "-X", "-q", "-A", "-t", url, "-c", statement], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


def family_cpu(pid):
    """CPU seconds of a process and of those that it started, those that ended included."""
    total = Used(pid).cpu
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            total += Used(int(child)).cpu
        except (Broken, OSError):
            pass  # it ended just now
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return total + (int(fields[13]) + int(fields[14])) / TICKS


class Cluster:
    """Some instances on one database; with Redis, or without."""

    def __init__(self, processes, binary, upstream, count, redis):
        self.processes, self.binary, self.rows = processes, binary, 0
        self.name = f"bench_{os.getpid()}_{count}_{'redis' if redis else 'alone'}"
        sql(f"CREATE DATABASE {self.name}")
        own = {k: v for k, v in os.environ.items() if not k.startswith(("BEDROCK_", "AWS_"))}
        self.environment = own | {
            "BEDROCK_JWT__SECRET": "a secret for measurements, of no use to anybody",
            "BEDROCK_DATABASE__URL": POSTGRES.rsplit("/", 1)[0] + f"/{self.name}",
            "BEDROCK_SERVER__HOST": "127.0.0.1",
            "BEDROCK_SERVER__WORKERS": "1",
            "BEDROCK_METRICS__ENABLED": "false",
            "BEDROCK_AWS__REGION": "us-east-1",
            "BEDROCK_AWS__ACCESS_KEY_ID": "AKIDEXAMPLE",
            "BEDROCK_AWS__SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            "BEDROCK_AWS__ENDPOINT_URL": f"http://127.0.0.1:{upstream}",
            "BEDROCK_LOGGING__LEVEL": "info",
            "BEDROCK_RATE_LIMITS__INFERENCE_PER_MINUTE_PER_KEY": "1000000",
        }
        if redis:
            self.environment |= {"BEDROCK_CACHE__BACKEND": "redis", "BEDROCK_CACHE__REDIS_URL": REDIS,
                                 "BEDROCK_CACHE__REDIS_KEY_PREFIX": f"{self.name}:"}
        self.command("init")
        self.command("user", "create", EMAIL)
        self.key = self.command("key", "create", EMAIL, "--name", "bench")
        self.instances = [self.start(number) for number in range(count)]

    def command(self, *arguments):
        done = subprocess.run([self.binary, *arguments], cwd=self.processes.folder, env=self.environment,
                              capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise Broken(f"bedrock_proxy {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def start(self, number):
        port, name = free_port(), f"{self.name}-{number}"
        environment = self.environment | {
            "BEDROCK_SERVER__PORT": str(port),
            "BEDROCK_USAGE__JOURNAL_DIR": str(self.processes.folder / "journal"),
        }
        process = self.processes.start(name, [self.binary], [SERVER_CORE], environment)

        def ready():
            if process.poll() is not None:
                raise Broken((self.processes.folder / f"{name}.out").read_text()[-2000:])
            try:
                return answers(port)
            except OSError:
                return False

        wait_until(ready, 20, "an instance")
        return process, port

    def load(self):
        """One load on each instance after the other. Answers CPU microseconds a call: instances, Postgres, Redis."""
        cpu = lambda: (sum(Used(process.pid).cpu for process, _ in self.instances),
                       family_cpu(POSTGRES_PID), family_cpu(REDIS_PID))
        before, answered = cpu(), 0
        for _, port in self.instances:
            load = bench.Load(port, "/bedrock" + INVOKE, bench.SMALL, SECONDS, token=self.key)
            answered += load.answers
        self.rows += answered
        wait_until(lambda: int(sql("SELECT count(*) FROM usage_records", self.name)) >= self.rows, 60, "the rows")
        after = cpu()
        rows = int(sql("SELECT count(*) FROM usage_records WHERE outcome = 'success'", self.name))
        if rows != self.rows:
            raise Broken(f"{self.rows} answers, but {rows} rows")
        return [(late - early) / answered * 1e6 for early, late in zip(before, after, strict=True)]

    def stop(self):
        for process, _ in self.instances:
            code = self.processes.stop(process, within=60)
            if code != 0:
                raise Broken(f"an instance ended with {code}")
        sql(f"DROP DATABASE {self.name} WITH (FORCE)")


def answers(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    finally:
        connection.close()


def main():
    binary = pathlib.Path(os.environ["BENCH_BINARY"]).resolve()
    for pid in (POSTGRES_PID, REDIS_PID):
        for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), [SERVER_CORE])
    os.sched_setaffinity(0, [LOAD_CORE])
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bedrock-proxy-instances."))
    processes, table = Processes(folder), []
    began = time.monotonic()
    try:
        upstream = processes.plain_upstream()
        for count, redis in ((1, False), (1, True), (3, False), (3, True)):
            cluster = Cluster(processes, binary, upstream, count, redis)
            cluster.load()  # warms up
            rounds = [cluster.load() for _ in range(ROUNDS)]
            cluster.stop()
            table.append((count, redis, *map(statistics.median, zip(*rounds, strict=True))))
            print(f"instances: {table[-1]}", file=sys.stderr, flush=True)
    finally:
        processes.stop_all()
        shutil.rmtree(folder)
    print("| Instances | Redis | CPU of the instances, µs a call | of Postgres | of Redis |")
    print("|---|---|---|---|---|")
    for count, redis, own, postgres, cache in table:
        print(f"| {count} | {'yes' if redis else 'no'} | {own:.1f} | {postgres:.1f} | {cache if redis else 0:.2f} |")
    print(f"\n{len(CORES)} cores, load average {os.getloadavg()[0]:.1f} at the end, {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Broken as error:
        sys.exit(f"instances: FAILED: {error}")
