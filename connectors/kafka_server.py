"""A real one-node Apache Kafka 4 (KRaft) on loopback, from Apache's published jars: for development, tests and benchmarks.

May not hold domain rules or be used in production (one node, no TLS). Flags follow the Kafka 4.1 documentation and were run.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from types import TracebackType
from uuid import uuid4

from connectors.child_process import die_with_parent

DEFAULT_PORT = 19092
"""Port of `hedgerow broker start`; not Kafka's 9092, so that it never meets a broker that is somebody else's."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
HEAP_MB = 512
_FETCH_TIMEOUT_S = 600.0
_LOCAL = "127.0.0.1"


class BrokerUnavailable(RuntimeError):
    """The broker cannot be fetched, started or reached; the message says what to do."""


# --- what it is made of: Java, and Kafka's jars in the user's cache -----------------------------------------------------------------


def cache_dir() -> Path:
    """Return the user's cache directory for hedgerow (XDG base directory rules)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hedgerow"


def state_dir() -> Path:
    """Return the user's directory for data that outlives a run: the detached broker's data, log and state file."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "hedgerow"


def kafka_version() -> str:
    """Return the pinned version of Apache Kafka."""
    found = re.search(r"<kafka\.version>([^<]+)<", _package_text("kafka_server.pom.xml"))
    assert found is not None
    return found.group(1)


def find_java() -> str:
    """Return the path of a Java 17 or later (JAVA_HOME, then PATH); raise BrokerUnavailable when there is none."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(str(Path(home) / "bin" / "java")) if home else shutil.which("java")
    advice = "install a Java 17 runtime (Debian: apt install openjdk-17-jre-headless) or set HEDGEROW_KAFKA to a running broker"
    if java is None:
        raise BrokerUnavailable(f"Kafka needs Java and none was found in {'JAVA_HOME' if home else 'PATH'}: {advice}")
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerUnavailable(f"{java} does not run ({error}): {advice}") from error
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version.group(1)) < 17:
        raise BrokerUnavailable(
            f"Kafka {kafka_version()} needs Java 17 or later, {java} is {version.group(1) if version else 'unknown'}: {advice}"
        )
    return java


def fetch_jars() -> Path:
    """Return the directory of Kafka's jars, fetched once with Maven into the cache; safe when several processes ask at once."""
    root = cache_dir()
    done = root / f"kafka-{kafka_version()}"
    if done.is_dir():
        return done
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "kafka.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_dir():
            return done
        maven = shutil.which("mvn")
        if maven is None:
            raise BrokerUnavailable(
                f"Apache Kafka {kafka_version()} is not in {root} and Maven, which fetches it once, was not found: "
                "install Maven (Debian: apt install maven) or set HEDGEROW_KAFKA to a running broker"
            )
        with tempfile.TemporaryDirectory(dir=root, prefix="fetch-") as scratch:
            (Path(scratch) / "pom.xml").write_text(_package_text("kafka_server.pom.xml"))
            target = Path(scratch) / "libs"
            command = [maven, "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={target}"]
            try:
                run = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False)
            except subprocess.TimeoutExpired as error:
                raise BrokerUnavailable(f"Maven did not fetch Apache Kafka within {_FETCH_TIMEOUT_S:.0f} s") from error
            if run.returncode != 0 or not list(target.glob("kafka_2.13-*.jar")):
                raise BrokerUnavailable(f"Maven could not fetch Apache Kafka {kafka_version()}:\n{_tail(run.stdout + run.stderr)}")
            target.rename(done)
    return done


def _package_text(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(line for line in text.splitlines()[-lines:])


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((_LOCAL, 0))
        return int(probe.getsockname()[1])


def port_answers(port: int, timeout_s: float = 1.0) -> bool:
    """Return whether something accepts connections on 127.0.0.1:`port`."""
    with contextlib.suppress(OSError), socket.create_connection((_LOCAL, port), timeout=timeout_s):
        return True
    return False


def broker_answers(bootstrap: str, timeout_s: float = 5.0) -> bool:
    """Return whether a Kafka broker answers a metadata request at `bootstrap` within `timeout_s`."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "socket.timeout.ms": int(timeout_s * 1000)})
    try:
        return bool(client.list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False


# --- the server ------------------------------------------------------------------------------------------------------------------


class KafkaServer:
    """One Kafka node in a JVM of its own. A context manager; the JVM dies with this process unless `detached`.

    data_dir: where its log, settings and topic data go and stay; None: a temporary directory, removed by `stop`.
    port: the client port on 127.0.0.1; 0 picks a free one, which `restart` keeps.
    overrides: further server.properties, which win over the packaged ones.
    Raises BrokerUnavailable, from `start` and on entering, with what to install or the end of the broker's log.
    """

    def __init__(
        self,
        data_dir: Path | str | None = None,
        port: int = 0,
        *,
        heap_mb: int = HEAP_MB,
        overrides: dict[str, str] | None = None,
        detached: bool = False,
    ) -> None:
        self._own_dir = data_dir is None
        self.data_dir = Path(tempfile.mkdtemp(prefix="hedgerow-kafka-") if data_dir is None else data_dir).absolute()
        self.port = port
        self._controller_port = 0
        self._heap_mb = heap_mb
        self._overrides = dict(overrides or {})
        self._detached = detached
        self._process: subprocess.Popen[bytes] | None = None
        self._starter = 0

    def __enter__(self) -> KafkaServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return f"{_LOCAL}:{self.port}"

    @property
    def log_file(self) -> Path:
        """Where the broker's log goes."""
        return self.data_dir / "server.log"

    @property
    def pid(self) -> int | None:
        """Process id of the running JVM, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start the JVM and return when the broker answers; formats the data directory the first time."""
        if self.pid is not None:
            return
        java, jars = find_java(), fetch_jars()
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BrokerUnavailable(f"the broker's data directory cannot be made: {error}") from error
        # A free port may be taken by another process before the JVM binds it: try again with others.
        ours_to_choose = self.port == 0
        for attempts_left in (2, 1, 0):
            try:
                self._launch(java, jars, timeout_s)
                return
            except BrokerUnavailable as error:
                if "already in use" not in str(error) or not attempts_left or not ours_to_choose:
                    raise
                self.port = self._controller_port = 0

    def _launch(self, java: str, jars: Path, timeout_s: float) -> None:
        self.port = self.port or free_port()
        self._controller_port = self._controller_port or free_port()
        if port_answers(self.port):
            raise BrokerUnavailable(f"port {self.port} on {_LOCAL} is already in use by another program")
        settings = self.data_dir / "server.properties"
        text = Template(_package_text("kafka_server.properties")).substitute(
            port=self.port, controller_port=self._controller_port, log_dir=self.data_dir / "topics"
        )
        settings.write_text(text + "".join(f"{name}={value}\n" for name, value in self._overrides.items()))
        logging = self.data_dir / "log4j2.xml"
        logging.write_text(_package_text("kafka_server.log4j2.xml"))
        base = [java, "-cp", f"{jars}/*", f"-Dlog4j2.configurationFile={logging}", "-XX:+UseSerialGC"]
        if not (self.data_dir / "topics" / "meta.properties").exists():
            self._format([*base, "-XX:TieredStopAtLevel=1"], settings)
        heap = f"{self._heap_mb}m"
        command = [*base, f"-Xms{heap}", f"-Xmx{heap}", "-Djava.awt.headless=true", "kafka.Kafka", str(settings)]
        written = self.log_file.stat().st_size if self.log_file.exists() else 0
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.data_dir,
                start_new_session=True,  # a Ctrl-C at the terminal is for us to handle; we stop it in order
                preexec_fn=None if self._detached else die_with_parent(signal.SIGKILL),
            )
        if not self._detached:
            self._starter = os.getpid()
            atexit.register(self._at_exit)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                told = self._log_since(written)
                code, self._process = self._process.returncode, None
                if "Address already in use" in told:
                    raise BrokerUnavailable(f"port {self.port} or {self._controller_port} on {_LOCAL} is already in use")
                raise BrokerUnavailable(f"Kafka ended with code {code} while starting; the end of {self.log_file}:\n{_tail(told)}")
            if port_answers(self.port) and broker_answers(self.bootstrap, 2.0):
                return
            time.sleep(0.05)
        self.kill()
        raise BrokerUnavailable(
            f"Kafka did not answer at {self.bootstrap} in time; the end of {self.log_file}:\n{_tail(self._log_since(written))}"
        )

    def _format(self, base: list[str], settings: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=").replace("-", "A")  # an id may not begin with a dash
        command = [*base, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if run.returncode != 0:
            raise BrokerUnavailable(f"Kafka could not format {self.data_dir}:\n{_tail(run.stdout + run.stderr)}")

    def _log_since(self, position: int) -> str:
        with open(self.log_file, "rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace")

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the broker in order (SIGTERM; SIGKILL after `timeout_s`). Nothing happens when it is not running."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()
        if self._own_dir:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def kill(self) -> None:
        """End the broker at once, as a crash would (SIGKILL). Its data stays."""
        process, self._process = self._process, None
        atexit.unregister(self._at_exit)
        if process is not None:
            if process.poll() is None:
                process.kill()
            process.wait()

    def _at_exit(self) -> None:
        if os.getpid() == self._starter:  # a forked child that exits must not take its parent's broker along
            self.kill()

    def restart(self, *, crash: bool = False) -> None:
        """Stop (in order, or as a crash) and start again on the same port with the same data."""
        if crash:
            self.kill()
        else:
            own, self._own_dir = self._own_dir, False
            self.stop()
            self._own_dir = own
        self.start()


# --- the detached broker of `hedgerow broker` ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BrokerState:
    """What is known of the detached broker; kept as JSON beside its data."""

    pid: int
    port: int
    bootstrap: str
    log: str


def _broker_dir() -> Path:
    return state_dir() / "broker"


@contextlib.contextmanager
def _broker_lock() -> Iterator[None]:
    _broker_dir().mkdir(parents=True, exist_ok=True)
    with open(_broker_dir() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_broker(pid: int) -> bool:
    """Return whether process `pid` is the detached broker and not a later one with its id: by the settings file on its command line."""
    try:
        if Path("/proc/self/cmdline").exists():
            told = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        else:
            told = subprocess.run(
                ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False
            ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "kafka.Kafka" in told and str(_broker_dir() / "server.properties") in told


def running_broker() -> BrokerState | None:
    """Return the detached broker's state, or None when it does not run (a stale state file is removed)."""
    file = _broker_dir() / "state.json"
    try:
        state = BrokerState(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if _is_broker(state.pid):
        return state
    file.unlink(missing_ok=True)
    return None


def start_detached(port: int = DEFAULT_PORT) -> BrokerState:
    """Start the detached broker and return when it answers; returns the running one if it is there on that port."""
    with _broker_lock():
        running = running_broker()
        if running is not None:
            if running.port != port:
                raise BrokerUnavailable(f"a broker already runs at {running.bootstrap}: `hedgerow broker stop` first, or use that one")
            if not broker_answers(running.bootstrap):
                raise BrokerUnavailable(
                    f"the broker (process {running.pid}) runs but does not answer at {running.bootstrap}: see {running.log}"
                )
            return running
        server = KafkaServer(_broker_dir(), port, detached=True)
        try:
            server.start()
        except BaseException:  # Ctrl-C too: nothing may stay behind that `stop` does not know of
            server.kill()
            raise
        assert server.pid is not None
        state = BrokerState(server.pid, server.port, server.bootstrap, str(server.log_file))
        scratch = _broker_dir() / "state.json.new"
        scratch.write_text(json.dumps(asdict(state), indent=2) + "\n")
        scratch.replace(_broker_dir() / "state.json")
        return state


def stop_detached(timeout_s: float = STOP_TIMEOUT_S) -> BrokerState | None:
    """End the detached broker, that process and no other; return what was stopped, None when none ran. Its data stays."""
    with _broker_lock():
        state = running_broker()
        if state is None:
            return None
        for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(state.pid, number)
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(state.pid, os.WNOHANG)  # when this very process started it
                if not _is_broker(state.pid):
                    (_broker_dir() / "state.json").unlink(missing_ok=True)
                    return state
                time.sleep(0.05)
        raise BrokerUnavailable(f"the broker (process {state.pid}) does not end")


# --- hedgerow broker start|stop|status -------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hedgerow broker`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="start|stop|status")
    start = actions.add_parser("start", help="start a one-node Apache Kafka on this machine and leave it running")
    start.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"client port on {_LOCAL} (default {DEFAULT_PORT})")
    actions.add_parser("stop", help="stop it; its topics stay on disk")
    actions.add_parser("status", help="say whether it runs and answers; exit code 1 when not")


def run(args: argparse.Namespace) -> int:
    """Carry out `hedgerow broker`; return the exit code. Raises BrokerUnavailable."""
    if args.action == "start":
        if not 1 <= args.port <= 65535:
            raise BrokerUnavailable(f"--port: {args.port} is not a port (1 to 65535)")
        state = start_detached(args.port)
        print(f"Kafka {kafka_version()} answers at {state.bootstrap} (process {state.pid}, log {state.log})")
        print(f"export HEDGEROW_KAFKA={state.bootstrap}")
        return 0
    if args.action == "stop":
        stopped = stop_detached()
        print("no broker was running" if stopped is None else f"stopped the broker at {stopped.bootstrap} (process {stopped.pid})")
        return 0
    running = running_broker()
    if running is None:
        print("no broker is running: `hedgerow broker start` starts one")
        return 1
    if not broker_answers(running.bootstrap):
        print(f"the broker at {running.bootstrap} (process {running.pid}) does not answer: see {running.log}")
        return 1
    print(f"Kafka answers at {running.bootstrap} (process {running.pid}, log {running.log})")
    return 0
