"""Calls of etcd's API by grpcio, without generated code.

etcd_load.py ADDRESS CONNECTIONS COUNT [CERTIFICATE]: COUNT rounds on each of so many connections at once, over TLS if there is a
certificate to trust. Prints a line per call: `<service>/<method> <status code's name>`.
"""

import sys
import threading
import time

import grpc

LOCK = threading.Lock()


def field(number, value):
    """A field of protobuf: bytes, or a number below 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def channel_to(address, index, certificate):
    # Channels of one process share a connection unless their options differ.
    options = [("spantap.test", index), ("grpc.use_local_subchannel_pool", 1)]
    if certificate is None:
        return grpc.insecure_channel(address, options)
    options.append(("grpc.ssl_target_name_override", "tls.test"))
    with open(certificate, "rb") as file:
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(file.read()), options)


def tell(method, act):
    try:
        act("/etcdserverpb." + method)
        code = "OK"
    except grpc.RpcError as error:
        code = error.code().name
    with LOCK:
        print("etcdserverpb." + method, code)


def work(address, index, count, certificate):
    channel = channel_to(address, index, certificate)

    def unary(method, request):
        tell(method, lambda path: channel.unary_unary(path)(request))

    def stream(method, request):
        tell(method, lambda path: list(channel.stream_stream(path)(iter([request] * 3))))

    for number in range(count):
        key = b"secret/%d/%d" % (index, number)
        unary("KV/Put", field(1, key) + field(2, b"secret" * 10))
        unary("KV/Range", field(1, key))
        unary("KV/Put", field(2, b"no key"))
        unary("KV/DeleteRange", field(1, key))
        unary("Lease/LeaseRevoke", field(1, 99))
        unary("KV/Missing", b"")
        stream("Lease/LeaseKeepAlive", field(1, 99))
    # So that the server's last write has returned: what becomes of a call whose connection ends within it is not its matter.
    time.sleep(0.5)
    channel.close()


def main(address, connections, count, certificate=None):
    arguments = [(address, index, int(count), certificate) for index in range(int(connections))]
    threads = [threading.Thread(target=work, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main(*sys.argv[1:])
