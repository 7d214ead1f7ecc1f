"""Jaeger's collector by gRPC, as far as its generated code goes: takes spans and prints each request as a line of JSON.

Arguments: the port to listen on.
"""

import importlib.metadata
import json
import os
import sys
import types
from concurrent import futures

# It was generated for an older protobuf, of which only the part in Python reads it.
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
# Only the generated code, which does not need what its exporter imports.
PACKAGE = "opentelemetry.exporter.jaeger.proto.grpc"
FILES = importlib.metadata.distribution("opentelemetry-exporter-jaeger-proto-grpc")
sys.modules[PACKAGE] = types.ModuleType(PACKAGE)
sys.modules[PACKAGE].__path__ = [str(FILES.locate_file(PACKAGE.replace(".", "/")))]
sys.path.insert(0, str(FILES.locate_file(PACKAGE.replace(".", "/") + "/gen")))

import grpc  # noqa: E402
from google.protobuf import json_format, unknown_fields  # noqa: E402
from opentelemetry.exporter.jaeger.proto.grpc.gen import collector_pb2, collector_pb2_grpc  # noqa: E402


def count_unknown(message):
    """How many fields the schema does not have, at any depth."""
    found = len(unknown_fields.UnknownFieldSet(message))
    for field, value in message.ListFields():
        if field.message_type is not None:
            found += sum(count_unknown(each) for each in (value if field.label == field.LABEL_REPEATED else [value]))
    return found


class Collector(collector_pb2_grpc.CollectorServiceServicer):
    def PostSpans(self, request, context):
        said = json_format.MessageToDict(request, including_default_value_fields=True, preserving_proto_field_name=True)
        print(json.dumps({"unknown": count_unknown(request), **said}), flush=True)
        return collector_pb2.PostSpansResponse()


server = grpc.server(futures.ThreadPoolExecutor(2))
collector_pb2_grpc.add_CollectorServiceServicer_to_server(Collector(), server)
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
