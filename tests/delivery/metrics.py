"""A receiver of metrics by OTLP, made of OpenTelemetry's own generated types: says what it got last, as JSON.

Arguments: the port for questions, that of gRPC, that of HTTP. HTTP refuses requests without the header `x-key: k`.
"""

import concurrent.futures
import gzip
import http.server
import sys
import threading

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as rpc

from judge import serve

last = {}


def keep(way, request):
    last[way] = MessageToDict(request)


class Grpc(rpc.MetricsServiceServicer):
    def Export(self, request, context):
        keep("grpc", request)
        return service.ExportMetricsServiceResponse()


class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        status = 404 if self.path != "/v1/metrics" else 200 if self.headers.get("x-key") == "k" else 401
        if status == 200:
            keep("http", service.ExportMetricsServiceRequest.FromString(body))
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
rpc.add_MetricsServiceServicer_to_server(Grpc(), server)
server.add_insecure_port(f"127.0.0.1:{sys.argv[2]}")
server.start()
by_http = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3])), Http)
threading.Thread(target=by_http.serve_forever, daemon=True).start()
serve(int(sys.argv[1]), {"last": lambda way: last.get(way), "seen": lambda: sorted(last)})
