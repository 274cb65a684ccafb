"""The embedded broker: librdkafka's mock cluster, in this process, on loopback, nothing on disk. For the demo and quick tests only.

May not be used to prove exactly-once or to keep data; see the limits of MockBroker, found by experiment and in librdkafka's rdkafka_mock.h.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from connectors.kafka_server import BrokerUnavailable

_PRODUCER = 0  # rd_kafka_type_t
_OK = 0  # rd_kafka_resp_err_t, also rd_kafka_conf_res_t
_ERROR_BYTES = 512


def _load() -> ctypes.CDLL:
    """Return the librdkafka that confluent_kafka itself uses: the one bundled in its wheel, already in this process."""
    import confluent_kafka

    package = Path(confluent_kafka.__file__).parent
    # Linux wheels put it beside the package (auditwheel), macOS wheels inside it (delocate).
    for folder, pattern in ((package.parent / "confluent_kafka.libs", "librdkafka*.so*"), (package / ".dylibs", "librdkafka*.dylib")):
        for file in sorted(folder.glob(pattern)):
            library = ctypes.CDLL(str(file))
            return _declare(library)
    raise BrokerUnavailable(f"the embedded broker needs confluent-kafka from its wheel: no bundled librdkafka beside {package}")


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_conf_destroy": (None, [pointer]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_err2str": (text, [number]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise BrokerUnavailable(f"the embedded broker needs a librdkafka with {name}; this confluent-kafka has none") from error
        function.restype, function.argtypes = result, arguments
    return library


class MockBroker:
    """A broker of one node that speaks the Kafka protocol to any process on this machine. A context manager.

    topics: name to partition count. Raises BrokerUnavailable when it cannot start, ValueError for a bad count.

    Limits, so that nobody takes it for a broker:
    - keeps about 5 MB per partition in memory and drops older records silently: read along, do not come back later;
    - a topic it does not know is made on first use with 4 partitions; admin requests to create, delete or describe fail;
    - transactions answer OK, but aborted records stay visible, `send_offsets_to_transaction` commits nothing and an old producer with the
      same transactional id is not fenced;
    - offsets are not found by their time: a reader that looks back so far and no further finds nothing;
    - no retention, compaction, `delete_records`, TLS, SASL or ACLs; offsets and data are gone when it closes or its process ends;
    - it must not be used after a fork.
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        for name, partitions in topics.items():
            if partitions < 1:
                raise ValueError(f"topic {name}: {partitions} partitions, must be 1 or more")
        self.topics = dict(topics)
        self.bootstrap = ""
        self._library: ctypes.CDLL | None = None
        self._handle: int | None = None
        self._cluster: int | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def __enter__(self) -> MockBroker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start listening; afterwards `bootstrap` is its `host:port`."""
        if self._cluster is not None:
            return
        library = self._library = _load()
        self._pid = os.getpid()
        said = ctypes.create_string_buffer(_ERROR_BYTES)
        settings = library.rd_kafka_conf_new()
        for option, value in ((b"client.id", b"hedgerow-embedded-broker"), (b"log_level", b"3")):
            if library.rd_kafka_conf_set(settings, option, value, said, _ERROR_BYTES) != _OK:
                library.rd_kafka_conf_destroy(settings)
                raise BrokerUnavailable(f"the embedded broker does not start: {said.value.decode(errors='replace')}")
        # The mock cluster lives in the threads of a client handle; this one is for nothing else.
        self._handle = library.rd_kafka_new(_PRODUCER, settings, said, _ERROR_BYTES)
        if not self._handle:
            library.rd_kafka_conf_destroy(settings)
            raise BrokerUnavailable(f"the embedded broker does not start: {said.value.decode(errors='replace')}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._handle, 1)
        if not self._cluster:
            self.stop()
            raise BrokerUnavailable("the embedded broker cannot listen on 127.0.0.1")
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        for name, partitions in self.topics.items():
            code = library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
            if code != _OK:
                self.stop()
                raise BrokerUnavailable(f"the embedded broker cannot make {name}: {library.rd_kafka_err2str(code).decode()}")
        self.bootstrap = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def stop(self) -> None:
        """Stop listening and forget everything. Clients still connected see the broker go away."""
        with self._lock:
            cluster, handle, self._cluster, self._handle = self._cluster, self._handle, None, None
        if self._library is None or os.getpid() != self._pid:
            return
        if cluster:
            self._library.rd_kafka_mock_cluster_destroy(cluster)
        if handle:
            self._library.rd_kafka_destroy(handle)
