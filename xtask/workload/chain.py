"""A small web shop for `cargo xtask run`: client -> front -> back over loopback, one slow hop among fast ones.

  chain.py back              prints its port; /stock/N answers at once, /price/N takes 40 ms
  chain.py front BACK_PORT   prints its port; each page asks back for its stock, and /checkout/N for its price too
  chain.py client FRONT_PORT five requests a second over one connection, every fourth a checkout

Standard library only. Each role ends with the process that started it.
"""
import ctypes
import http.client
import http.server
import secrets
import signal
import sys
import time

REQUESTS_PER_SECOND = 5
SLOW_SECONDS = 0.040


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    disable_nagle_algorithm = True

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Back(Handler):
    def do_GET(self):
        if self.path.startswith("/price/"):
            time.sleep(SLOW_SECONDS)
        self.answer(b"7\n")


class Front(Handler):
    back_port = 0
    back = None

    def ask(self, path):
        if self.back is None:
            self.back = http.client.HTTPConnection("127.0.0.1", self.back_port, timeout=5)
        headers = {"traceparent": value} if (value := self.headers.get("traceparent")) else {}
        self.back.request("GET", path, headers=headers)
        return self.back.getresponse().read()

    def do_GET(self):
        item = self.path.rsplit("/", 1)[-1]
        body = self.ask("/stock/" + item)
        if self.path.startswith("/checkout/"):
            body += self.ask("/price/" + item)
        self.answer(body)


def serve(handler):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        print(server.server_address[1], flush=True)
        server.serve_forever()


def client(port):
    front = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    number = 0
    while True:
        number += 1
        path = f"/checkout/{number}" if number % 4 == 0 else f"/item/{number}"
        try:
            # One trace per request; the front passes it on, so that `spantap trace` shows every hop.
            front.request("GET", path, headers={"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"})
            front.getresponse().read()
        except (OSError, http.client.HTTPException):
            front.close()  # the next request opens a new connection
        time.sleep(1 / REQUESTS_PER_SECOND)


def main():
    # A helper must not outlive the task that started it, however that ends.
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    role = sys.argv[1]
    if role == "back":
        serve(Back)
    elif role == "front":
        Front.back_port = int(sys.argv[2])
        serve(Front)
    elif role == "client":
        client(int(sys.argv[2]))


try:
    main()
except KeyboardInterrupt:
    pass
