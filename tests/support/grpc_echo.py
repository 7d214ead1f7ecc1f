"""A gRPC server and client on grpcio, without generated code.

server PORT: prints the port that it listens on.
client ADDRESS [calls COUNT CONNECTIONS]: prints a line per call, `<method> <status code's name>`; without `calls` one call of
each kind: all streaming kinds, failures, a deadline that passes, a call that the client gives up.
Over TLS if the environment names a CERTIFICATE, and for the server its KEY.
"""

import os
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "spantap.test.Echo"
CERTIFICATE = None
if "CERTIFICATE" in os.environ:
    with open(os.environ["CERTIFICATE"], "rb") as certificate:
        CERTIFICATE = certificate.read()


def same(message):
    return message


def fail(request, context):
    context.abort(grpc.StatusCode[request.decode()], "as asked for")


def slow(request, context):
    time.sleep(float(request.decode()))
    return b"late"


def several(request, context):
    for index in range(int(request.decode())):
        yield b"%d" % index


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(lambda request, context: request, same, same),
    "Fail": grpc.unary_unary_rpc_method_handler(fail, same, same),
    "Slow": grpc.unary_unary_rpc_method_handler(slow, same, same),
    "ServerStream": grpc.unary_stream_rpc_method_handler(several, same, same),
    "ClientStream": grpc.stream_unary_rpc_method_handler(lambda them, context: b"%d" % len(list(them)), same, same),
    "Bidi": grpc.stream_stream_rpc_method_handler(lambda them, context: (each for each in them), same, same),
}


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, HANDLERS),))
    address = "127.0.0.1:" + port
    if CERTIFICATE is None:
        print(server.add_insecure_port(address), flush=True)
    else:
        with open(os.environ["KEY"], "rb") as key:
            pair = [(key.read(), CERTIFICATE)]
        print(server.add_secure_port(address, grpc.ssl_server_credentials(pair)), flush=True)
    server.start()
    server.wait_for_termination()


def channel_to(address, index=0):
    # Channels of one process share a connection unless their options differ.
    options = [("spantap.test", index), ("grpc.use_local_subchannel_pool", 1)]
    if CERTIFICATE is None:
        return grpc.insecure_channel(address, options)
    options.append(("grpc.ssl_target_name_override", "tls.test"))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(CERTIFICATE), options)


def tell(method, call, *arguments, **more):
    try:
        result = call(*arguments, **more)
        if hasattr(result, "__next__"):
            list(result)
        code = grpc.StatusCode.OK
    except grpc.RpcError as error:
        code = error.code()
    print(method, code.name, flush=True)


def each_kind(channel):
    path = "/" + SERVICE + "/"
    unary = lambda method: channel.unary_unary(path + method, same, same)
    tell("Unary", unary("Unary"), b"x", timeout=30)
    for code in ["NOT_FOUND", "INTERNAL", "UNAVAILABLE", "INVALID_ARGUMENT", "DATA_LOSS"]:
        tell("Fail", unary("Fail"), code.encode())
    tell("Missing", unary("Missing"), b"x")
    tell("ServerStream", channel.unary_stream(path + "ServerStream", same, same), b"7")
    tell("ClientStream", channel.stream_unary(path + "ClientStream", same, same), iter([b"x"] * 5))
    tell("Bidi", channel.stream_stream(path + "Bidi", same, same), iter([b"x"] * 3))
    tell("Slow", unary("Slow"), b"1.5", timeout=0.3)
    future = unary("Slow").future(b"1.5")
    time.sleep(0.3)
    future.cancel()
    print("Slow CANCELLED", flush=True)
    # The last one: where its frames begin is hidden, and so what later ones take from the table of fields.
    tell("Unary", unary("Unary"), b"x" * 100_000)


def many(address, count, connections):
    def calls(index):
        with channel_to(address, index) as channel:
            unary = channel.unary_unary("/" + SERVICE + "/Unary", same, same)
            running = [unary.future(b"%d" % number) for number in range(count)]
            for each in running:
                each.result()

    threads = [threading.Thread(target=calls, args=[index]) for index in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("Unary OK\n" * (count * connections), end="")


if sys.argv[1] == "server":
    serve(sys.argv[2])
elif len(sys.argv) > 3:
    many(sys.argv[2], int(sys.argv[4]), int(sys.argv[5]))
else:
    with channel_to(sys.argv[2]) as channel:
        each_kind(channel)
