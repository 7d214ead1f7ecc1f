"""Sends spans of OpenTelemetry's SDK for Python over each protocol, and prints what it sent, one JSON object per line.

Arguments: address of OTLP/gRPC, address of OTLP/HTTP and Zipkin, the token of the tenant.
"""

import json
import sys

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http
from opentelemetry.exporter.zipkin.json import ZipkinExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from requests import Session

grpc_address, http_address, token = sys.argv[1:4]
headers = {"authorization": f"Bearer {token}"}
traces = f"http://{http_address}/v1/traces"
session = Session()
session.headers.update(headers)

EXPORTERS = {
    "grpc": Grpc(endpoint=grpc_address, insecure=True, headers=headers, timeout=10),
    "grpc-gzip": Grpc(endpoint=grpc_address, insecure=True, headers=headers, compression=grpc.Compression.Gzip, timeout=10),
    "http": Http(endpoint=traces, headers=headers, timeout=10),
    "http-gzip": Http(endpoint=traces, headers=headers, compression=Compression.Gzip, timeout=10),
    "zipkin": ZipkinExporter(endpoint=f"http://{http_address}/api/v2/spans", session=session),
}


def spans(service):
    """A hundred pairs of spans, child first."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": service}))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("check", "1.0")
    for number in range(100):
        with tracer.start_as_current_span(f"outer {number}", kind=SpanKind.SERVER):
            with tracer.start_as_current_span(f"inner {number}", kind=SpanKind.CLIENT) as inner:
                inner.set_attribute("text", f"ü {number}")
                inner.set_attribute("number", number)
                inner.add_event("event", {"key": "value"})
                if number % 2:
                    inner.set_status(Status(StatusCode.ERROR, "broken"))
    return memory.get_finished_spans()


def told(protocol, result, span):
    """What the agent has to have of a span."""
    return {
        "protocol": protocol,
        "result": result.name,
        "trace_id": f"{span.context.trace_id:032x}",
        "span_id": f"{span.context.span_id:016x}",
        "parent_span_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "kind": span.kind.name.lower(),
        "status": "error" if span.status.status_code == StatusCode.ERROR else "ok",
        "start_unix_ns": span.start_time,
        "duration_ns": span.end_time - span.start_time,
        "attributes": dict(span.attributes),
    }


for protocol, exporter in EXPORTERS.items():
    sent = spans(f"sdk-{protocol}")
    result = exporter.export(sent)
    for span in sent:
        print(json.dumps(told(protocol, result, span)))
    exporter.shutdown()
