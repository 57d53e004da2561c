"""Starts the service as its systemd unit does, without systemd: the unit's exact command line in a root that holds what is
installed and nothing else, as another user, without capabilities, under the unit's filter of system calls, limits and
umask, with its credentials and environment, and with one folder to write to.

    unshare --mount python3 tests/deploy/unit.py start ROOT       it listens by itself, serves, and stops
    unshare --mount python3 tests/deploy/unit.py protocol ROOT    with a socket handed over, and what it tells systemd

LIBSECCOMP names the library, where it is not installed. ROOT is a folder made by `scripts/image tree` and `scripts/install`. What is not reproduced: control groups (memory, tasks)
and namespaces of users, IPC and time.
"""

import ctypes
import http.client
import os
import pathlib
import re
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import time

NAME = "bedrock-sso-proxy"
UID = 61234
WAIT = 30  # seconds after which a wait has failed
CHILDREN = set()  # those that run; none outlives the test
LIMITS = {"LimitCORE": resource.RLIMIT_CORE, "LimitNOFILE": resource.RLIMIT_NOFILE}


class Unit:
    """The [Service] part of a unit file: each name with its values, in order."""

    def __init__(self, path):
        self.values, section = {}, None
        for line in path.read_text().splitlines():
            if match := re.fullmatch(r"\[(\w+)\]", line.strip()):
                section = match[1]
            elif section == "Service" and "=" in line and not line.startswith("#"):
                name, value = line.split("=", 1)
                self.values.setdefault(name, []).append(value)

    def one(self, name):
        return self.values[name][-1]

    def expand(self, text):
        return text.replace("%S", "/var/lib").replace("%d", f"/run/credentials/{NAME}.service")

    def system_calls(self):
        allowed = set()
        for line in self.values["SystemCallFilter"]:
            named = set().union(*(expand_calls(name) for name in line.lstrip("~").split()))
            allowed = allowed - named if line.startswith("~") else allowed | named
        return allowed


def expand_calls(name):
    if not name.startswith("@"):
        return {name}
    told = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter", name], check=True, capture_output=True, text=True)
    names = [line.strip() for line in told.stdout.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return set().union(*(expand_calls(inner) for inner in names))


class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def make_filter(calls):
    """The unit's filter of system calls, of address families, and against memory that is written and run. Answers what loads
    it into the process that calls it."""
    allow, refuse, equal, masked = 0x7FFF0000, 0x00050000 | 1, 4, 7  # EPERM, as SystemCallErrorNumber says
    library = ctypes.CDLL(os.environ.get("LIBSECCOMP", "libseccomp.so.2"))
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(refuse))
    write_execute, execute = 2 | 4, 4
    conditions = {
        "socket": [Compare(0, equal, family, 0) for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)],
        "mmap": [Compare(2, masked, write_execute, value) for value in (0, 2, 4)],
        "mprotect": [Compare(2, masked, execute, 0)],
    }
    for call in sorted(calls):
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            continue  # not of this architecture
        for condition in conditions.get(call, [None]):
            given = (Compare * 1)(condition) if condition else None
            if library.seccomp_rule_add_array(context, allow, number, 1 if condition else 0, given) != 0:
                raise OSError(f"no rule for {call}")

    def load():
        if library.seccomp_load(context) != 0:
            raise OSError("the filter was not taken")

    return load


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def prepare(root):
    """Mounts, in this process's own namespace: the root read-only, and the places that systemd makes."""
    mount("--make-rprivate", "/")
    state, credentials = root / "var/lib" / NAME, root / "run/credentials" / f"{NAME}.service"
    for folder in (state, credentials, root / "dev", root / "proc"):
        folder.mkdir(parents=True, exist_ok=True)
    for device in ("null", "zero", "random", "urandom"):
        (root / "dev" / device).touch()
    mount("--bind", str(root), str(root))
    mount("-t", "tmpfs", "-o", f"mode=0700,uid={UID},gid={UID}", "none", str(state))
    mount("-t", "tmpfs", "-o", f"mode=0500,uid={UID},gid={UID}", "none", str(credentials))
    secret = credentials / "jwt_secret"
    secret.write_bytes(os.urandom(24).hex().encode())
    os.chown(secret, UID, UID)
    secret.chmod(0o400)
    # As tmpfiles does with the group of the service.
    for path in [root / "etc" / NAME, root / "etc" / NAME / "config.yaml"]:
        os.chown(path, 0, UID)
    for device in ("null", "zero", "random", "urandom"):
        mount("--bind", f"/dev/{device}", str(root / "dev" / device))
    try:
        mount("-t", "proc", "-o", "subset=pid,hidepid=invisible", "proc", str(root / "proc"))
    except subprocess.CalledProcessError:
        pass  # stricter than the unit: no /proc at all
    mount("-o", "remount,bind,ro", str(root))
    mount("-o", "remount,ro", str(credentials))
    return state


def sandboxed(unit, root, command, environment, listening=None):
    """Starts a command as the unit would; answers its process id."""
    load_filter = make_filter(unit.system_calls())
    limits = {LIMITS[name]: int(unit.one(name)) for name in LIMITS}
    libc = ctypes.CDLL(None)
    pid = os.fork()
    if pid:
        CHILDREN.add(pid)
        return pid
    try:
        os.chroot(root)
        os.chdir(unit.expand(unit.one("WorkingDirectory")))
        os.umask(int(unit.one("UMask"), 8))
        for limit, value in limits.items():
            value = min(value, resource.getrlimit(limit)[1])  # a machine may not let it be raised
            resource.setrlimit(limit, (value, value))
        for capability in range(64):
            libc.prctl(24, capability, 0, 0, 0)  # out of the bounding set
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
        libc.prctl(38, 1, 0, 0, 0)  # no new privileges
        if listening is not None:
            os.dup2(listening.fileno(), 3)
            os.set_inheritable(3, True)
            environment |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "http", "LISTEN_PID": str(os.getpid())}
        load_filter()
        os.execve(command[0], command, environment)
    except BaseException as error:  # the fork must not go on with what its parent does
        os.write(2, f"the sandbox: {error!r}\n".encode())
    os._exit(99)


def environment_of(unit):
    given = {"PATH": "/usr/bin", "LANG": "C.UTF-8"}
    for line in unit.values["Environment"]:
        name, value = unit.expand(line).split("=", 1)
        given[name] = value
    # A credential that is none, so that the service asks nobody off this machine for one.
    return given | {"AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "BEDROCK_AWS__BEARER_TOKEN": "none",
                    "BEDROCK_SERVER__HOST": "127.0.0.1", "BEDROCK_METRICS__PORT": "0",
                    "BEDROCK_LOGGING__LEVEL": "warn"}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ready(port):
    """Whether the service answers that it is ready."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False


def until(what, asked, pid):
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if asked():
            return
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            CHILDREN.discard(pid)
            sys.exit(f"{what}: the service ended before")
        time.sleep(0.05)
    sys.exit(f"{what}: not within {WAIT} s")


def ended(pid):
    """The exit code of a process that has to end by itself; the wait is bounded."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            CHILDREN.discard(pid)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    sys.exit("the service did not end")


def check_bounds(pid):
    """That the sandbox is one, by what the kernel says of the process."""
    told = dict(line.split(":\t") for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    found = {name: told[name].split()[0] for name in ("Uid", "NoNewPrivs", "Seccomp", "CapEff", "CapBnd")}
    zero = "0" * 16
    wanted = {"Uid": str(UID), "NoNewPrivs": "1", "Seccomp": "2", "CapEff": zero, "CapBnd": zero}
    assert found == wanted, f"{found}, not {wanted}"


def check_files(state):
    """SEC-87: nothing that the service made can be read by others."""
    made = [path for path in state.rglob("*")]
    assert any(path.name == "bedrock_sso.db" for path in made), made
    for path in made:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path} has mode {mode:o}"


def start(unit, root, state):
    port = free_port()
    environment = environment_of(unit) | {"BEDROCK_SERVER__PORT": str(port)}
    command = unit.expand(unit.one("ExecStart")).split()
    pid = sandboxed(unit, root, command, environment)
    until("readiness", lambda: ready(port), pid)
    check_bounds(pid)
    check_files(state)
    for what in (["health"], ["settings", "check"], ["job", "status"]):
        asked = sandboxed(unit, root, [*command[:-1], *what], environment)
        assert ended(asked) == 0, what
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == 0, "the exit code"
    # The control: where it cannot write, it does not start.
    mount("-o", "remount,ro", str(state))
    assert ended(sandboxed(unit, root, command, environment)) not in (0, 99)
    print("the unit's command serves within the unit's bounds")


def protocol(unit, root, state):
    name = f"\0{NAME}-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        told.bind(name)
        port, heard = listening.getsockname()[1], []

        def hears(wanted):
            while select.select([told], [], [], 0)[0]:
                heard.extend(told.recv(4096).decode().split("\n"))
            return wanted in heard

        # Another port in the settings: whoever answers on this one took the socket that it was handed.
        environment = environment_of(unit) | {
            "BEDROCK_SERVER__PORT": str(free_port()), "NOTIFY_SOCKET": "@" + name[1:], "WATCHDOG_USEC": "2000000"}
        command = unit.expand(unit.one("ExecStart")).split()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
        connection.connect()  # it waits in the queue of the socket
        pid = sandboxed(unit, root, command, environment, listening)
        until("READY=1", lambda: hears("READY=1"), pid)
        connection.request("GET", "/health/live")
        assert connection.getresponse().status == 200, "a connection from before the start"
        until("WATCHDOG=1", lambda: hears("WATCHDOG=1"), pid)
        os.kill(pid, signal.SIGHUP)
        heard.clear()
        until("a sign of life after SIGHUP", lambda: hears("WATCHDOG=1"), pid)
        os.kill(pid, signal.SIGTERM)
        code = ended(pid)
        assert hears("STOPPING=1") and code == 0, (heard, code)
        # The socket is systemd's: it stays open for the next process.
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            pass
    print("it takes the socket, and tells that it is ready, alive and stopping")


def main(what, root):
    root = pathlib.Path(root).resolve()
    unit = Unit(root / "usr/lib/systemd/system" / f"{NAME}.service")
    try:
        {"start": start, "protocol": protocol}[what](unit, root, prepare(root))
    finally:
        for child in CHILDREN:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass


if __name__ == "__main__":
    main(*sys.argv[1:])
