"""A load on Kafka, librdkafka's broker included: kafka_load.py broker | produce ADDRESS CLIENTS MESSAGES |
consume ADDRESS MESSAGES | beyond ADDRESS.

`broker` prints its address and stays; `beyond` reads where there is nothing, until that fails. The others print what librdkafka
itself counted as one line of JSON: requests by their kinds, over all connections.
"""

import collections
import json
import sys
import threading

import confluent_kafka as kafka

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BOUND_S = 60


class Counted:
    """A client whose statistics are kept: what it sent by kinds of requests, and what is on its way."""

    def __init__(self, make, options):
        self.latest, self.news = None, threading.Event()
        self.client = make({"statistics.interval.ms": 50, "stats_cb": self.take, **options})

    def take(self, text):
        self.latest = json.loads(text)
        self.news.set()

    def at_rest(self):
        """Waits for statistics that are younger than this call and say that nothing is on its way."""
        for _ in range(2):
            self.news.clear()
            while not (self.news.is_set() and self.waiting() == 0):
                self.client.poll(0.02)

    def waiting(self):
        return sum(broker["waitresp_cnt"] + broker["outbuf_cnt"] for broker in self.latest["brokers"].values())

    def requests(self):
        counts = collections.Counter()
        for broker in self.latest["brokers"].values():
            counts.update({kind: count for kind, count in broker["req"].items() if count})
        return counts


def broker():
    admin = kafka.Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1})
    known = next(iter(admin.list_topics(timeout=BOUND_S).brokers.values()))
    print(f"{known.host}:{known.port}", flush=True)
    threading.Event().wait()


def produce(address, clients, messages):
    def send(total, lock):
        counted = Counted(kafka.Producer, {"bootstrap.servers": address, "acks": "all", "client.id": "load"})
        for number in range(messages):
            headers = [("traceparent", TRACE)] if number == 0 else []
            # One at a time, so that each is a request of its own.
            counted.client.produce("orders", partition=0, value=b"x" * 100, headers=headers)
            assert counted.client.flush(BOUND_S) == 0
        counted.at_rest()
        with lock:
            total.update(counted.requests())

    total, lock = collections.Counter(), threading.Lock()
    threads = [threading.Thread(target=send, args=(total, lock)) for _ in range(clients)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(json.dumps(total), flush=True)


def consume(address, messages):
    options = {"bootstrap.servers": address, "group.id": "load", "enable.auto.commit": False, "auto.offset.reset": "error"}
    counted = Counted(kafka.Consumer, options | {"fetch.wait.max.ms": 100})
    partition = kafka.TopicPartition("orders", 0, 0)
    counted.client.assign([partition])
    for _ in range(messages):
        message = counted.client.poll(BOUND_S)
        assert message is not None and message.error() is None, message and message.error()
    counted.client.pause([partition])
    counted.at_rest()
    print(json.dumps(counted.requests()), flush=True)
    counted.client.close()


def beyond(address):
    consumer = kafka.Consumer({"bootstrap.servers": address, "group.id": "load", "auto.offset.reset": "error"})
    consumer.assign([kafka.TopicPartition("orders", 0, 1_000_000)])
    while (message := consumer.poll(BOUND_S)) is None or message.error() is None:
        pass
    consumer.close()


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    {"broker": broker, "produce": produce, "consume": consume, "beyond": beyond}[command](
        *[int(argument) if argument.isdigit() else argument for argument in arguments]
    )
