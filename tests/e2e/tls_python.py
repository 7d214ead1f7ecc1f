"""HTTPS by Python's ssl: tls_python.py serve CERTIFICATE KEY | get ADDRESS PATH COUNT. A server prints its port when it listens."""

import http.client
import http.server
import ssl
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"x" * int(self.path.split("/")[2]) if self.path.startswith("/big/") else b"ok\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(certificate, key):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def get(address, path, count):
    connection = http.client.HTTPSConnection(address, context=ssl._create_unverified_context())
    for number in range(int(count)):
        connection.request("GET", f"{path}{number}")
        response = connection.getresponse()
        response.read()
        print(response.status, flush=True)


{"serve": serve, "get": get}[sys.argv[1]](*sys.argv[2:])
