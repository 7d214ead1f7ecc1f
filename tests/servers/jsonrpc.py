"""JSON-RPC 2.0 by jsonrpclib-pelix: jsonrpc.py serve | talk ADDRESS ROUNDS.

The server prints its port when it listens. Clients (its own, which numbers requests by texts, and jsonrpcclient over httpx, which counts)
print a line for each call: method, number (`-`: a text, or none), and `ok` or the code of the error.
"""

import sys


def serve():
    from jsonrpclib.SimpleJSONRPCServer import SimpleJSONRPCServer

    server = SimpleJSONRPCServer(("127.0.0.1", 0), logRequests=False)
    server.register_function(lambda first, second: first + second, "math.add")
    server.register_function(lambda text: text, "echo")
    print(server.server_address[1], flush=True)
    server.serve_forever()


def own(address, rounds):
    import jsonrpclib

    server = jsonrpclib.ServerProxy(f"http://{address}/RPC2")
    for _ in range(rounds):
        assert server.math.add(3, 4) == 7
        print("math.add - ok", flush=True)
        server._notify.echo("a secret")
        print("echo - ok", flush=True)
        try:
            server.no_such_method("a secret")
        except jsonrpclib.ProtocolError as error:
            print("no_such_method -", error.args[0][0], flush=True)


def counting(address, rounds):
    import httpx
    from jsonrpcclient import Error, parse, request

    with httpx.Client() as client:
        for number in range(1, rounds + 1):
            for method, params in [("math.add", (1, 2)), ("math.add", ("x",)), ("missing", ())]:
                asked = request(method, params, id=number)
                said = parse(client.post(f"http://{address}/RPC2", json=asked).json())
                print(method, number, said.code if isinstance(said, Error) else "ok", flush=True)


if sys.argv[1] == "serve":
    serve()
else:
    own(sys.argv[2], int(sys.argv[3]))
    counting(sys.argv[2], int(sys.argv[3]))
