"""Opens websockets one after the other, sends messages through each, and says what became of it."""

import sys

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

for path in sys.argv[2:]:
    try:
        with connect(f"ws://{sys.argv[1]}{path}", max_size=None, compression=None) as connection:
            for message in ["hello", b"\x00" * 200_000, "GET /denied HTTP/1.1\r\nHost: a\r\n\r\n"]:
                connection.send(message)
                assert connection.recv(timeout=20) == message
            print(path, "OK")
    except InvalidStatus as error:
        print(path, error.response.status_code)
