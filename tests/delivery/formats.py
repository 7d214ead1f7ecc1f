"""Sends spans to the agent and reads them in each format, with code that others wrote: all formats say the same as OTLP.

Arguments: where the agent receives OTLP/HTTP, a port to listen on, the port of Datadog's test agent, the agent's file, what
`jaeger.py` prints. Ends with status 0 and `the same`, or with what differs.
"""

import base64
import calendar
import http.server
import importlib.metadata
import json
import sys
import threading
import time
import urllib.request

# Only its generated code, which does not need what its exporter imports.
JAEGER = importlib.metadata.distribution("opentelemetry-exporter-jaeger-thrift")
sys.path.insert(0, str(JAEGER.locate_file("opentelemetry/exporter/jaeger/thrift/gen")))

from google.protobuf import json_format  # noqa: E402
from jaeger import ttypes as jaeger  # noqa: E402
from opentelemetry.exporter.zipkin.json.v2 import JsonV2Encoder  # noqa: E402
from opentelemetry.exporter.zipkin.node_endpoint import NodeEndpoint  # noqa: E402
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402
from opentelemetry.proto.trace.v1.trace_pb2 import Span  # noqa: E402
from opentelemetry.sdk.resources import Resource  # noqa: E402
from opentelemetry.sdk.trace import Event, ReadableSpan  # noqa: E402
from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: E402
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode  # noqa: E402
from thrift.protocol.TBinaryProtocol import TBinaryProtocol  # noqa: E402
from thrift.transport.TTransport import TMemoryBuffer  # noqa: E402

INTAKE, PORT, DATADOG_PORT, FILE, JAEGER_FILE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
BOUND_SECONDS = 60
START = time.time_ns()
PATHS = {"/v1/traces": "otlp", "/json": "otlp_json", "/api/v2/spans": "zipkin", "/api/traces": "jaeger"}
BODIES = {name: [] for name in PATHS.values()}
ARRIVED = threading.Condition()


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with ARRIVED:
            BODIES[PATHS[self.path]].append(body)
            ARRIVED.notify()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def put(attributes, **values):
    """Attributes of every type."""
    for key, item in values.items():
        target = attributes.add(key=key.replace("__", ".")).value
        if isinstance(item, list):
            for number in item:
                target.array_value.values.add(int_value=number)
            continue
        kinds = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}
        setattr(target, kinds[type(item)], item)


def add_span(spans, number, kind):
    """A span of one of two traces, which uses every part of a span that other formats have a place for."""
    # The first bit of an id says nothing about its sign.
    span_id = lambda number: bytes([0xFF, 2, 3, 4, 5, 6, 7, number])  # noqa: E731
    span = spans.add(
        trace_id=bytes(byte + number % 2 for byte in range(1, 17)),
        span_id=span_id(number),
        parent_span_id=b"" if number < 2 else span_id(number % 2),
        name=f"GET /orders/{number}",
        kind=kind,
        start_time_unix_nano=START + number,
        end_time_unix_nano=START + number + 1_234_567 * number,
    )
    text = "line\nbreak \"quoted\" ü 🦀"
    put(span.attributes, http__request__method="GET", text=text, int=-7, double=0.25, bool=True, list=[1, 2])
    put(span.events.add(name="retry", time_unix_nano=START + 1_000_000).attributes, reason=text)
    span.links.add(trace_id=b"\7" * 16, span_id=b"\x08" * 8)
    if number == 3:
        span.status.code, span.status.message = 2, "no such shop"


def send():
    request = ExportTraceServiceRequest()
    services = {"shop": [Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_INTERNAL]}
    services["queue"] = [Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER]
    number = 0
    for service, kinds in services.items():
        resource_spans = request.resource_spans.add()
        put(resource_spans.resource.attributes, service__name=service, host__name="web-1")
        scope_spans = resource_spans.scope_spans.add()
        scope_spans.scope.name, scope_spans.scope.version = "lib", "1.2"
        for kind in kinds:
            add_span(scope_spans.spans, number, kind)
            number += 1
    headers = {"content-type": "application/x-protobuf"}
    body = request.SerializeToString()
    urllib.request.urlopen(urllib.request.Request(f"http://{INTAKE}/v1/traces", body, headers), timeout=10)


def until(what, condition):
    """What the condition gives, as soon as it gives something."""
    end = time.monotonic() + BOUND_SECONDS
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"{what}: not within {BOUND_SECONDS} s")


def value(any_value):
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    return getattr(any_value, kind)


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def flat(request):
    """Each span with its resource and scope."""
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield attributes(resource_spans.resource.attributes), scope_spans.scope, span


def sdk_span(resource, scope, span):
    """As OpenTelemetry's own exporters get it."""
    trace_id = int.from_bytes(span.trace_id, "big")
    context = SpanContext(trace_id, int.from_bytes(span.span_id, "big"), False)
    parent = SpanContext(trace_id, int.from_bytes(span.parent_span_id, "big"), True) if span.parent_span_id else None
    return ReadableSpan(
        name=span.name,
        context=context,
        parent=parent,
        resource=Resource(resource),
        attributes=attributes(span.attributes),
        events=[Event(event.name, attributes(event.attributes), event.time_unix_nano) for event in span.events],
        kind=SpanKind(span.kind - 1),
        status=Status(StatusCode(span.status.code), span.status.message or None),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
        instrumentation_scope=InstrumentationScope(scope.name, scope.version),
    )


def same(what, got, expected):
    if got != expected:
        sys.exit(f"{what}: {got!r}, expected {expected!r}")


def near(what, got, expected):
    """Microseconds: OpenTelemetry's exporter for Python rounds them."""
    if abs(got - expected) > 1:
        same(what, got, expected)


def check_zipkin(request, body):
    got = {span["id"]: span for span in json.loads(body)}
    spans = list(flat(request))
    same("Zipkin's number of spans", len(got), len(spans))
    for resource, scope, span in spans:
        encoder = JsonV2Encoder(max_tag_value_length=None)
        (expected,) = json.loads(encoder.serialize([sdk_span(resource, scope, span)], NodeEndpoint()))
        mine = got[expected["id"]]
        for key in ["traceId", "parentId", "name", "kind"]:
            same(f"Zipkin's {key}", mine.get(key), expected.get(key))
        near("Zipkin's timestamp", mine["timestamp"], expected["timestamp"])
        near("Zipkin's duration", mine["duration"], expected["duration"])
        same("Zipkin's service", mine["localEndpoint"]["serviceName"], resource["service.name"])
        for key, text in (expected.get("tags") or {}).items():
            if key == "service.name" or key.startswith("otel.library"):
                continue
            got_text = mine["tags"].get(key)
            # OpenTelemetry's exporter for Python makes texts of the numbers in a list.
            if text.startswith("["):
                got_text, text = [[str(item) for item in json.loads(each)] for each in (got_text, text)]
            same(f"Zipkin's tag {key}", got_text, text)
        annotations = expected.get("annotations") or []
        same("Zipkin's number of annotations", len(mine.get("annotations", [])), len(annotations))
        for got_annotation, annotation in zip(mine.get("annotations", []), annotations):
            near("Zipkin's annotation", got_annotation["timestamp"], annotation["timestamp"])


def unsigned(number):
    return number.to_bytes(8, "big", signed=True)


def tag_value(tag):
    return [tag.vStr, tag.vDouble, tag.vBool, tag.vLong, tag.vBinary][tag.vType]


def from_thrift(bodies):
    """Each span of batches in Thrift by its id, in names of this file; times are in microseconds."""
    for body in bodies:
        batch = jaeger.Batch()
        batch.read(TBinaryProtocol(TMemoryBuffer(body)))
        batch.validate()
        for span in batch.spans:
            span.validate()
            links = [(unsigned(each.spanId), each.refType) for each in span.references if each.refType != 0]
            yield unsigned(span.spanId), {
                "service": batch.process.serviceName,
                "trace id": unsigned(span.traceIdHigh) + unsigned(span.traceIdLow),
                "parent": unsigned(span.parentSpanId) if span.parentSpanId else b"",
                "name": span.operationName,
                "start": span.startTime,
                "duration": span.duration,
                "tags": {tag.key: tag_value(tag) for tag in span.tags},
                "logs": [log.timestamp for log in span.logs],
                "links": [link for link, kind in links if kind == 1],
            }


def nanoseconds(text):
    """Of protobuf's JSON for a duration or, in UTC, a time."""
    if text.endswith("s"):
        seconds, _, fraction = text[:-1].partition(".")
        return int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(fraction.ljust(9, "0"))


def proto_value(tag):
    read = {"STRING": str, "BOOL": bool, "INT64": int, "FLOAT64": float}[tag["v_type"]]
    return read(tag["v_" + {"STRING": "str"}.get(tag["v_type"], tag["v_type"].lower())])


def from_proto(requests):
    """The same of requests by gRPC, as `jaeger.py` prints them; times are in nanoseconds."""
    for request in requests:
        same("fields that Jaeger's schema does not have", request["unknown"], 0)
        batch = request["batch"]
        for span in batch["spans"]:
            references = [(base64.b64decode(each["span_id"]), each["ref_type"]) for each in span["references"]]
            yield base64.b64decode(span["span_id"]), {
                "service": span.get("process", batch["process"])["service_name"],
                "trace id": base64.b64decode(span["trace_id"]),
                "parent": b"".join(parent for parent, kind in references if kind == "CHILD_OF"),
                "name": span["operation_name"],
                "start": nanoseconds(span["start_time"]),
                "duration": nanoseconds(span["duration"]),
                "tags": {tag["key"]: proto_value(tag) for tag in span["tags"]},
                "logs": [nanoseconds(log["timestamp"]) for log in span["logs"]],
                "links": [link for link, kind in references if kind == "FOLLOWS_FROM"],
            }


def check_jaeger(request, how, got, unit_ns):
    got = dict(got)
    spans = list(flat(request))
    same(f"Jaeger's number of spans by {how}", len(got), len(spans))
    for resource, _, span in spans:
        mine = got[span.span_id]
        expected = {
            "service": resource["service.name"],
            "trace id": span.trace_id,
            "parent": span.parent_span_id,
            "name": span.name,
            "start": span.start_time_unix_nano // unit_ns,
            "duration": (span.end_time_unix_nano - span.start_time_unix_nano) // unit_ns,
            "logs": [event.time_unix_nano // unit_ns for event in span.events],
            "links": [link.span_id for link in span.links],
        }
        for key, what in expected.items():
            same(f"Jaeger's {key} by {how}", mine[key], what)
        for key, what in attributes(span.attributes).items():
            if isinstance(what, list):
                what = json.dumps(what, separators=(",", ":"))
            same(f"Jaeger's tag {key} by {how}", mine["tags"].get(key), what)
        same(f"Jaeger's error by {how}", mine["tags"].get("error", False), span.status.code == 2)


def datadog(path):
    with urllib.request.urlopen(f"http://127.0.0.1:{DATADOG_PORT}{path}", timeout=10) as answer:
        return json.load(answer)


def check_datadog(request):
    traces = until("Datadog's agent has traces", lambda: datadog("/test/traces"))
    got = {span["span_id"]: span for trace in traces for span in trace}
    spans = list(flat(request))
    same("Datadog's number of spans", len(got), len(spans))
    same("Datadog's number of traces", len(traces), len({span.trace_id for _, _, span in spans}))
    for resource, _, span in spans:
        mine = got[int.from_bytes(span.span_id, "big")]
        same("Datadog's service", mine["service"], resource["service.name"])
        same("Datadog's trace id", mine["trace_id"], int.from_bytes(span.trace_id[8:], "big"))
        same("Datadog's upper half", mine["meta"]["_dd.p.tid"], span.trace_id[:8].hex())
        same("Datadog's parent", mine["parent_id"], int.from_bytes(span.parent_span_id, "big"))
        same("Datadog's start", mine["start"], span.start_time_unix_nano)
        same("Datadog's duration", mine["duration"], span.end_time_unix_nano - span.start_time_unix_nano)
        same("Datadog's error", mine["error"], int(span.status.code == 2))
        for key, expected in attributes(span.attributes).items():
            place = "metrics" if type(expected) in (int, float) else "meta"
            if isinstance(expected, list):
                expected = json.dumps(expected, separators=(",", ":"))
            if isinstance(expected, bool):
                expected = str(expected).lower()
            same(f"Datadog's {place} {key}", mine[place].get(key), expected)


def to_base64(node):
    """OTLP has ids in hexadecimal where protobuf's JSON has base64."""
    if isinstance(node, list):
        return [to_base64(item) for item in node]
    if not isinstance(node, dict):
        return node
    ids = ("traceId", "spanId", "parentSpanId")
    encode = lambda text: base64.b64encode(bytes.fromhex(text)).decode()  # noqa: E731
    return {key: encode(item) if key in ids else to_base64(item) for key, item in node.items()}


def check_json(what, request, text):
    parsed = json_format.ParseDict(to_base64(json.loads(text)), ExportTraceServiceRequest())
    same(what, parsed, request)


def lines(name):
    with open(name, encoding="utf-8") as file:
        return file.read().splitlines()


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    until("Datadog's agent answers", lambda: datadog("/info"))
    send()
    with ARRIVED:
        everything = ARRIVED.wait_for(lambda: all(BODIES.values()) and len(BODIES["jaeger"]) == 2, BOUND_SECONDS)
    if not everything:
        sys.exit(f"arrived: { {name: len(bodies) for name, bodies in BODIES.items()} }")
    request = ExportTraceServiceRequest()
    request.ParseFromString(BODIES["otlp"][0])
    same("OTLP's number of spans", len(list(flat(request))), 5)
    check_json("OTLP in JSON", request, BODIES["otlp_json"][0])
    (line,) = until("the file has a line", lambda: lines(FILE))
    check_json("the file", request, line)
    check_zipkin(request, BODIES["zipkin"][0])
    check_jaeger(request, "Thrift", from_thrift(BODIES["jaeger"]), 1000)
    by_grpc = until("Jaeger's collector has a request", lambda: lines(JAEGER_FILE))
    check_jaeger(request, "gRPC", from_proto(map(json.loads, by_grpc)), 1)
    check_datadog(request)
    print("the same", flush=True)


main()
