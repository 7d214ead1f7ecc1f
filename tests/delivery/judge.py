"""What consumers of destinations have in common: they count the numbered spans that they read, and answer questions of the test.

A question is a line on a connection to the control port, the answer one line of JSON, then the connection ends.
"""

import collections
import json
import socketserver
import threading

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

# First half of every trace id of the test's sender; the second half is the span's number.
MAGIC = b"\xc3\x9aspanta"


def spans_of(body):
    """The spans of a request in protobuf."""
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


class Seen:
    """How often each numbered span was read, and what was wrong."""

    def __init__(self):
        self.lock = threading.Lock()
        self.times = collections.Counter()
        self.leaks = 0
        self.wrong = []

    def add(self, body, spans):
        numbers = [int.from_bytes(span.trace_id[8:], "big") for span in spans if span.trace_id[:8] == MAGIC]
        with self.lock:
            self.times.update(numbers)
            self.leaks += b"hunter2" in body

    def complain(self, what):
        with self.lock:
            self.wrong.append(what)

    def report(self, *_):
        with self.lock:
            times = self.times
            return {
                "spans": len(times),
                "twice": sum(times.values()) - len(times),
                "next": next((number for number in range(len(times) + 1) if number not in times), None),
                "leaks": self.leaks,
                "wrong": self.wrong[:10],
            }


def serve(port, commands):
    """Answers questions until the process is ended."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            name, *arguments = self.rfile.readline().decode().split()
            self.wfile.write(json.dumps(commands[name](*arguments)).encode())

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    Server(("127.0.0.1", port), Handler).serve_forever()
