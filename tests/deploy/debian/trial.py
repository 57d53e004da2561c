"""A new operator on a clean Debian 12 with systemd, in an emulated machine: the steps of docs/production.md to the letter, then
sign-in, calls, a restart under a stream, `kill -9`, a process that hangs, a database and a Redis that are away, a reboot, backup
and restore, the same package again, removal.

    trial.py BINARY BASE DISK       BASE and DISK are of image.sh

BINARY plays the world outside: `demo` has a simulated Bedrock and a simulated identity provider, reached through the machine's
emulated network. All ports here are on loopback. It takes ten
minutes, and more where others use the same two cores.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

DOCUMENT = pathlib.Path(__file__).resolve().parents[3] / "docs/production.md"
HEADING = "#### One Debian with Postgres, Redis and TLS"
SERVICE = "bedrock-sso-proxy"
WAIT = 300  # seconds after which a step has failed: the machine is emulated
SHOW = "systemctl show --value -p"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Machine:
    def __init__(self, base, disk, folder):
        self.port = free_port()
        self.console = folder / "console"
        command = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "2048", "-smp", "2",
            "-display", "none", "-no-user-config", "-nodefaults", "-monitor", "none",
            "-kernel", base / "boot/vmlinuz", "-initrd", base / "boot/initrd.img",
            "-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0",
            "-drive", f"file={disk},format=raw,if=virtio,cache=unsafe", "-device", "virtio-rng-pci",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:2222",
            "-device", "virtio-net-pci,netdev=net", "-serial", f"file:{self.console}",
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def say(self, script, wait=WAIT):
        """Runs a script there, as root; answers what it printed and how it ended."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as shell:
            shell.sendall(b"( " + script.encode() + b'\n) 2>&1 </dev/null; echo "[ended $?]"; exit\n')
            shell.shutdown(socket.SHUT_WR)
            told = b"".join(iter(lambda: shell.recv(65536), b"")).decode(errors="replace")
        if not (ended := re.search(r"\[ended (\d+)\]\n$", told)):
            raise ConnectionError(f"no end: {told[-500:]}")
        return told[: ended.start()].strip(), int(ended[1])

    def run(self, script, wait=WAIT):
        told, code = self.say(script, wait)
        assert code == 0, f"{script}\nended with {code}:\n{told[-3000:]}"
        return told

    def until(self, what, script, wait=WAIT):
        end = time.monotonic() + wait
        while True:
            with contextlib.suppress(OSError):
                told, code = self.say(script, 30)
                if code == 0:
                    return told
            assert self.process.poll() is None, "the machine ended"
            assert time.monotonic() < end, f"{what}: not within {wait} s"
            time.sleep(1)

    def client(self, *arguments):
        return json.loads(self.run(f"python3 client.py {' '.join(map(str, arguments))}"))

    def meanwhile(self, script, seconds, delay):
        """Calls and a stream for some seconds, and the script five seconds after their beginning."""
        told = self.run(f"python3 client.py load {seconds} {delay} >load & sleep 5; {script}; wait; cat load")
        return json.loads(told.splitlines()[-1])

    def ready(self, wait=WAIT):
        return self.until("readiness", "curl -sf -m 20 --cacert ca.crt https://localhost/health/ready", wait)

    def rows_complete(self):
        """Every call that was answered has its row, and only one."""
        sql = "SELECT request_id FROM usage_records"
        self.until("rows", f"""(cd / && runuser -u postgres -- psql -Atc '{sql}' bedrock) | sed 's/^req_//' | sort >rows
            test -z "$(sort -u answered | comm -23 - rows)" && test -z "$(uniq -d rows)" """, 60)
        return int(self.run("sort -u answered | wc -l"))

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class World:
    """What is outside, and where the machine finds it: the same addresses as here."""

    def __init__(self, binary, folder):
        port = free_port()
        self.log = folder / "world"
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(folder)}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([binary, "demo", "--port", str(port)], stdout=log, stderr=log, env=environment)
        end = time.monotonic() + WAIT
        while not (found := re.search(r"saw: (http://127\.0\.0\.1:(\d+))/", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)
        self.bedrock, bedrock_port = found.groups()

        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_):
                return None

        try:
            urllib.request.build_opener(Stay).open(f"http://localhost:{port}/auth/authorize/demo", timeout=WAIT)
        except urllib.error.HTTPError as moved:
            self.issuer, issuer_port = re.match(r"(http://127\.0\.0\.1:(\d+))/", moved.headers["location"]).groups()
        self.ports = [bedrock_port, issuer_port]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def documented():
    """The two scripts of docs/production.md, and the settings between them."""
    text = DOCUMENT.read_text().split(HEADING)[1]
    blocks = re.findall(r"```(sh|yaml)\n(.*?)```", text, re.S)[:3]
    assert [kind for kind, _ in blocks] == ["sh", "yaml", "sh"], "the document has other steps"
    return [block for _, block in blocks]


def replaced(text, pairs):
    for old, new in pairs:
        assert old in text, f"the document does not say {old!r}"
        text = text.replace(old, new)
    return text


def install(machine, world):
    """The documented steps; only the names and addresses are the trial's."""
    machine.run(
        """
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -keyout ca.key -out ca.crt \\
          -subj '/CN=Trial' -addext basicConstraints=critical,CA:TRUE
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout proxy.key -out proxy.csr -subj '/CN=localhost'
        openssl x509 -req -in proxy.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -out proxy.crt \\
          -extfile <(echo subjectAltName=DNS:localhost)
        printf simulated-client-secret-of-the-demo >client_secret
        """
        + "".join(
            f"""
        printf '[Socket]\\nListenStream=127.0.0.1:{port}\\n' >/etc/systemd/system/world-{port}.socket
        printf '[Service]\\nExecStart=/lib/systemd/systemd-socket-proxyd 10.0.2.2:{port}\\n' >/etc/systemd/system/world-{port}.service
        systemctl add-wants sockets.target world-{port}.socket; systemctl start world-{port}.socket
        """
            for port in world.ports
        )
    )
    first, settings, second = documented()
    settings = replaced(settings, [
        ("https://proxy.example.com", "https://localhost"),
        ("{region: eu-central-1}", f"{{region: us-east-1, endpoint_url: '{world.bedrock}'}}"),
        ("https://id.example.com", world.issuer),
        ("client_id: bedrock", "client_id: demo-client"),
    ])
    # `sudo -i` is for whoever is not root yet.
    machine.run("set -e\n" + replaced(first, [("sudo -i\n", "")]))
    machine.run(f"cat >/etc/{SERVICE}/config.yaml <<'YAML'\n{settings}YAML")
    machine.run(f"printf 'AWS_ACCESS_KEY_ID=AKIDEXAMPLE\\nAWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\\n' "
                f">/etc/{SERVICE}/environment; chmod 600 /etc/{SERVICE}/environment")
    told = machine.run("set -e\n" + second)
    assert "the settings are sound" in told, told
    machine.ready()


def serves_as_the_unit_says(machine):
    for name, value in [("Type", "notify"), ("ActiveState", "active"), ("StatusText", "serving on 0.0.0.0:443"),
                        ("NRestarts", "0")]:
        assert machine.run(f"{SHOW} {name} {SERVICE}") == value, name
    machine.run(f"systemd-analyze security --no-pager --threshold=12 {SERVICE}.service")
    machine.run(f"systemd-analyze verify --man=no {SERVICE}.service {SERVICE}.socket {SERVICE}-backup.service")
    # The control: the score of a unit without any of it would not pass.
    assert machine.say("systemd-analyze security --no-pager --threshold=12 cron.service")[1] != 0
    for line in machine.run(f"journalctl _SYSTEMD_UNIT={SERVICE}.service -o cat").splitlines():
        json.loads(line)


def people_come(machine):
    for person in ("1001", "1002"):
        machine.client("sign-in", person)
    told = machine.run(f"{SERVICE} user list")
    assert "admin@example.com" in told and "developer@example.com" in told, told
    by_hand = machine.run(f"{SERVICE} key create developer@example.com --name machine")
    assert "SSOK_" in by_hand, by_hand
    seen = machine.client("load", 5, 50)
    assert seen["stream_whole"] and seen["answered"] > 1 and not seen["failed"], seen
    machine.rows_complete()
    told = machine.run("curl -sf http://127.0.0.1:9090/metrics")
    assert re.search(r'^bedrock_calls_total\{operation="invoke_stream",outcome="success"\} 1$', told, re.M), told


def reloads(machine):
    machine.run(f"sed -i '1i logging: {{level: debug}}' /etc/{SERVICE}/config.yaml; systemctl reload {SERVICE}")
    machine.until("the level", f"journalctl _SYSTEMD_UNIT={SERVICE}.service -o cat | grep -q 'settings were read anew'", 60)
    machine.run(f"sed -i 1d /etc/{SERVICE}/config.yaml; systemctl reload {SERVICE}")


def restarts(machine):
    seen = machine.meanwhile(f"systemctl restart {SERVICE}", 25, 1000)
    assert seen["stream_whole"] and seen["answered"] > 3 and not seen["failed"], seen
    machine.rows_complete()
    return f"{seen['answered']} calls and a whole stream"


def is_killed(machine):
    seen = machine.meanwhile(f"kill -9 $({SHOW} MainPID {SERVICE})", 20, 1000)
    assert not seen["stream_whole"], "the trial would not notice a stream that is cut"
    assert seen["answered"] > 3 and len(seen["failed"]) <= 3, seen  # those in flight; whoever came later waited
    machine.ready()
    assert machine.run(f"{SHOW} NRestarts {SERVICE}") == "1"
    return f"{machine.rows_complete()} calls, each with its row"


def hangs(machine):
    machine.run(f"kill -STOP $({SHOW} MainPID {SERVICE})")
    machine.until("the watchdog", f"journalctl -b -u {SERVICE} | grep -q 'Watchdog timeout'", 90)
    machine.ready()


def redis_is_away(machine):
    machine.run("systemctl stop redis-server")
    seen = machine.client("load", 5, 50)
    assert seen["stream_whole"] and not seen["failed"], seen
    machine.ready()
    machine.run("systemctl start redis-server")


def postgres_is_away(machine):
    machine.run("systemctl stop postgresql")
    seen = machine.client("load", 10, 50)
    assert seen["stream_whole"] and not seen["failed"], seen
    assert machine.say("curl -sf --cacert ca.crt https://localhost/health/ready")[1] != 0, "ready without its database"
    machine.run("sleep 40; systemctl start postgresql")
    machine.ready()
    machine.rows_complete()


def starts_before_postgres(machine):
    """A start that finds no database waits, and one that waited in vain is followed by another: nobody has to come."""
    machine.run(f"systemctl stop postgresql; kill -9 $({SHOW} MainPID {SERVICE}); sleep 80")
    assert machine.run(f"{SHOW} ActiveState {SERVICE}") == "activating"
    assert int(machine.run(f"{SHOW} NRestarts {SERVICE}")) > 1, "no start gave up, so the trial is too short"
    machine.run("systemctl start postgresql")
    machine.ready()


def reboots(machine):
    before = machine.run("cat /proc/sys/kernel/random/boot_id")
    machine.run("systemctl reboot --no-block")
    machine.until("another boot", f"test $(cat /proc/sys/kernel/random/boot_id) != {before}")
    machine.ready()
    assert machine.run("systemctl --failed --no-legend") == ""
    seen = machine.client("load", 5, 50)
    assert seen["stream_whole"] and not seen["failed"], seen
    machine.rows_complete()


def is_lost_and_restored(machine):
    machine.run(f"systemctl stop {SERVICE}-backup.timer")
    # One that the timer has just begun would be joined, not followed.
    machine.until("the last backup", f'test "$({SHOW} ActiveState {SERVICE}-backup)" != activating', 120)
    backup = machine.run(f"""set -e; rm -rf /var/backups/{SERVICE}/2*
        systemctl start {SERVICE}-backup; ls -d /var/backups/{SERVICE}/2*Z""").splitlines()[-1]
    machine.run(f"""set -e
        id=$(cd / && runuser -u postgres -- psql -Atc "SELECT id FROM api_keys WHERE name = 'machine'" bedrock)
        {SERVICE} key revoke $id; systemctl start {SERVICE}-backup
        systemctl stop {SERVICE}.socket {SERVICE}
        (cd / && runuser -u postgres -- psql -c 'DROP DATABASE bedrock' -c 'CREATE DATABASE bedrock OWNER bedrock')
        rm -rf /var/lib/private/{SERVICE}/data""")
    steps = re.search(r"```sh\nsudo -i\n(systemctl stop .*?)```", (DOCUMENT.parent / "backup.md").read_text(), re.S)[1]
    told = machine.run("set -e\n" + replaced(steps, [(f"/var/backups/{SERVICE}/20261127T220000Z", backup)]))
    assert "is revoked" in told and "is restored" in told, told
    machine.ready()
    machine.rows_complete()
    seen = machine.client("load", 5, 50)
    assert not seen["failed"], seen


def is_upgraded(machine):
    machine.run(f"echo '# mine' >>/etc/{SERVICE}/config.yaml")
    seen = machine.meanwhile("dpkg -i *.deb >/dev/null", 60, 1000)
    assert seen["stream_whole"] and not seen["failed"], seen
    machine.run(f"grep -q '^# mine' /etc/{SERVICE}/config.yaml")
    machine.rows_complete()


def is_removed(machine):
    machine.run(f"apt-get remove -y {SERVICE}")
    assert machine.say("ss -Hltn 'sport = :443' | grep -q .")[1] != 0, "something still listens"
    machine.run(f"test -e /etc/{SERVICE}/config.yaml && test -d /var/lib/private/{SERVICE}/data")
    machine.run(f"apt-get purge -y {SERVICE}")
    machine.run(f"""test ! -e /etc/{SERVICE}/config.yaml && test -s /etc/{SERVICE}/jwt_secret &&
        test -d /var/lib/private/{SERVICE}/data && test -d /var/backups/{SERVICE}""")
    assert machine.run("systemctl --failed --no-legend") == ""


STEPS = [serves_as_the_unit_says, people_come, reloads, restarts, is_killed, hangs, redis_is_away, postgres_is_away,
         starts_before_postgres, reboots, is_lost_and_restored, is_upgraded, is_removed]


def main(binary, base, disk):
    binary, base = pathlib.Path(binary).resolve(), pathlib.Path(base)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as over:
        folder = pathlib.Path(folder)
        world = World(binary, folder)
        over.callback(world.stop)
        machine = Machine(base, disk, folder)
        over.callback(machine.stop)
        began = time.monotonic()
        try:
            told = machine.until("the first boot", "systemctl is-system-running --wait; systemctl --version | head -n 1")
            assert told.startswith("running"), told
            print(f"{time.monotonic() - began:5.0f} s  booted: {' '.join(told.split())}", flush=True)
            install(machine, world)
            print(f"{time.monotonic() - began:5.0f} s  installed, as documented", flush=True)
            for step in STEPS:
                seen = step(machine)
                print(f"{time.monotonic() - began:5.0f} s  {step.__name__.replace('_', ' ')}{f': {seen}' if seen else ''}", flush=True)
        except BaseException:
            with contextlib.suppress(OSError):
                log = f"journalctl -u {SERVICE} --no-pager | grep -v message.:.answered | tail -n 30 | cut -c 1-400"
                print(machine.say(log, 60)[0], file=sys.stderr)
            raise


if __name__ == "__main__":
    main(*sys.argv[1:])
