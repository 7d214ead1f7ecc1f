"""OpenSearch by opensearch-py: opensearch.py serve | talk ADDRESS ROUNDS.

No OpenSearch was at hand: the server is a script that answers in its shapes, with the header that OpenSearch sends since version 3. It prints its
port when it listens. A client prints a line for each call: operation, index (`-`: none) and HTTP status.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOUND = {"took": 1, "timed_out": False, "hits": {"total": {"value": 1, "relation": "eq"}, "hits": [{"_id": "1", "_source": {"text": "a secret"}}]}}


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_there = "/missing" not in self.path
        body = json.dumps(FOUND if "_search" in self.path else {"_id": "1", "found": is_there, "items": [], "errors": False}).encode()
        self.send_response(200 if is_there else 404)
        self.send_header("X-OpenSearch-Version", "OpenSearch/3.2.0 (opensearch)")
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer


def talk(address, rounds):
    from opensearchpy import NotFoundError, OpenSearch

    client = OpenSearch(f"http://{address}", max_retries=0)
    for _ in range(rounds):
        client.index(index="orders", id="4711", body={"text": "a secret"})
        print("index orders 200", flush=True)
        client.search(index="orders", body={"query": {"match": {"text": "a secret"}}})
        print("search orders 200", flush=True)
        client.search(body={"query": {"match_all": {}}})
        print("search - 200", flush=True)
        client.bulk(body=[{"index": {"_index": "orders"}}, {"text": "a secret"}])
        print("bulk - 200", flush=True)
        try:
            client.get(index="orders", id="missing")
        except NotFoundError:
            print("get orders 404", flush=True)
        client.delete(index="orders", id="4711")
        print("delete orders 200", flush=True)


if sys.argv[1] == "serve":
    SERVER = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    print(SERVER.server_port, flush=True)
    SERVER.serve_forever()
else:
    talk(sys.argv[2], int(sys.argv[3]))
