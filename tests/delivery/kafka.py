"""A Kafka cluster (librdkafka's own mock, over TCP) that fails as it is told, and a consumer of librdkafka that reads what arrives.

Argument: the control port. Commands: `bootstrap` gives the brokers' addresses; `down BROKER`, `up BROKER`, `leader PARTITION BROKER`;
`topic CODE` has the topic answer with this error (0: none), `produce CODE COUNT` the next requests; `partitions` compares where records
went with where librdkafka's producer puts their keys; `seen` tells what was read.
"""

import ctypes
import glob
import os
import sys
import threading

import confluent_kafka as kafka
from judge import Seen, serve, spans_of

TOPIC, PARTITIONS, BROKERS = b"spans", 6, 3
PRODUCE = 0

(library,) = glob.glob(os.path.join(os.path.dirname(kafka.__file__), "..", "confluent_kafka.libs", "librdkafka*.so*"))
RD = ctypes.CDLL(library)
for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
    getattr(RD, function).restype = ctypes.c_void_p
RD.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
problem = ctypes.create_string_buffer(256)
handle = ctypes.c_void_p(RD.rd_kafka_new(0, ctypes.c_void_p(RD.rd_kafka_conf_new()), problem, ctypes.c_size_t(256)))
CLUSTER = ctypes.c_void_p(RD.rd_kafka_mock_cluster_new(handle, BROKERS))
for topic in (TOPIC, b"reference"):
    if RD.rd_kafka_mock_topic_create(CLUSTER, topic, PARTITIONS, BROKERS):
        sys.exit(f"{topic} cannot be made")
BOOTSTRAP = RD.rd_kafka_mock_cluster_bootstraps(CLUSTER).decode()

SEEN = Seen()
PLACES = {}


def read():
    """Reads the whole topic, from its begin."""
    consumer = kafka.Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "judge", "enable.auto.commit": False})
    consumer.assign([kafka.TopicPartition("spans", partition, 0) for partition in range(PARTITIONS)])
    while True:
        record = consumer.poll(0.1)
        if record is None:
            continue
        if record.error():
            # Brokers go and come.
            continue
        spans = spans_of(record.value())
        key = (record.key() or b"").decode()
        if {span.trace_id.hex() for span in spans} != {key}:
            SEEN.complain(f"key {key} has spans of other traces")
        headers = dict(record.headers() or [])
        if headers.get("x-tenant") != b"blue" or key not in headers["idempotency-key"].decode():
            SEEN.complain(f"headers {headers}")
        PLACES[key] = record.partition()
        SEEN.add(record.value(), spans)


def partitions():
    """How many keys were compared, and which are elsewhere."""
    producer = kafka.Producer({"bootstrap.servers": BOOTSTRAP, "partitioner": "murmur2"})
    found = {}
    keys = dict(list(PLACES.items())[:500])
    for key in keys:
        producer.produce("reference", key=key, value=b"", callback=lambda _, sent: found.update({sent.key().decode(): sent.partition()}))
    producer.flush(30)
    return {"compared": len(found), "differ": [key for key, place in keys.items() if found.get(key) != place]}


def push(code, count):
    errors = (ctypes.c_int * int(count))(*[int(code)] * int(count))
    RD.rd_kafka_mock_push_request_errors_array(CLUSTER, ctypes.c_int16(PRODUCE), ctypes.c_size_t(int(count)), errors)


threading.Thread(target=read, daemon=True).start()
serve(
    int(sys.argv[1]),
    {
        "bootstrap": lambda: BOOTSTRAP,
        "down": lambda broker: RD.rd_kafka_mock_broker_set_down(CLUSTER, int(broker)),
        "up": lambda broker: RD.rd_kafka_mock_broker_set_up(CLUSTER, int(broker)),
        "leader": lambda partition, to: RD.rd_kafka_mock_partition_set_leader(CLUSTER, TOPIC, int(partition), int(to)),
        "topic": lambda code: RD.rd_kafka_mock_topic_set_error(CLUSTER, TOPIC, int(code)),
        "produce": push,
        "partitions": partitions,
        "seen": SEEN.report,
    },
)
