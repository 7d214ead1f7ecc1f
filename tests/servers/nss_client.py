"""HTTPS by libcurl on NSS: nss_client.py ADDRESS FILE CONNECTIONS COUNT.

Asks for /warm again and again until the file is there, then for COUNT paths on each of so many connections at once. Prints the status
of each.
"""

import ctypes
import os
import sys
import threading
import time

URL, VERIFY_PEER, VERIFY_HOST, HTTP_VERSION, WRITE = 10002, 64, 81, 84, 20011
STATUS = 0x200002
LOCK = threading.Lock()

curl = ctypes.CDLL("libcurl-nss.so.4")
curl.curl_easy_init.restype = ctypes.c_void_p
callback = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
discard = callback(lambda _, size, count, __: size * count)


class Connection:
    def __init__(self):
        self.handle = ctypes.c_void_p(curl.curl_easy_init())
        for option in (VERIFY_PEER, VERIFY_HOST):
            curl.curl_easy_setopt(self.handle, option, ctypes.c_long(0))
        curl.curl_easy_setopt(self.handle, HTTP_VERSION, ctypes.c_long(2))  # 1.1
        curl.curl_easy_setopt(self.handle, WRITE, discard)

    def get(self, url):
        curl.curl_easy_setopt(self.handle, URL, url.encode())
        result = curl.curl_easy_perform(self.handle)
        if result != 0:
            raise OSError(f"curl: {result}")
        status = ctypes.c_long()
        curl.curl_easy_getinfo(self.handle, STATUS, ctypes.byref(status))
        return status.value


def work(address, index, count):
    connection = Connection()
    for number in range(count):
        status = connection.get(f"https://{address}/nss/{index}/{number}")
        with LOCK:
            print(status, flush=True)


def main(address, file, connections, count):
    curl.curl_global_init(ctypes.c_long(3))
    first = Connection()
    while not os.path.exists(file):
        first.get(f"https://{address}/warm")
        time.sleep(0.02)
    threads = [threading.Thread(target=work, args=(address, index, int(count))) for index in range(int(connections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main(*sys.argv[1:])
