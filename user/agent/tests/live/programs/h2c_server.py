"""A server that goes on with HTTP/2 where a request asks for it (h2c) and has no body; others it answers in HTTP/1.1.

What it says first on a connection, its agreement and its first frames, it says in two segments, cut elsewhere on each
connection. Every path is written to the file that is named.
"""

import asyncio
import sys

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

CODES = {"/public/no": "404", "/public/gone": "410"}
# With it every part of what is said first is cut somewhere in one run: agreement, frames' headers, header blocks.
CUT_STEP = 7


class Server:
    def __init__(self):
        self.connections = 0

    async def serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.split("\r\n")
        fields = dict(field.lower().split(": ", 1) for field in rest if field)
        path = line.split(" ")[1]
        note(path)
        if "h2c" not in fields.get("upgrade", "") or "content-length" in fields:
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
            writer.close()
            return
        self.connections += 1
        settings = next(field.split(": ")[1] for field in rest if field.lower().startswith("http2-settings"))
        connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_upgrade_connection(settings.encode())
        answer(connection, 1, path)
        switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        first = switch + connection.data_to_send()
        cut = self.connections * CUT_STEP % len(first)
        writer.write(first[:cut])
        await asyncio.sleep(0.01)
        writer.write(first[cut:])
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, RequestReceived):
                    path = dict(event.headers)[":path"]
                    note(path)
                    answer(connection, event.stream_id, path)
            writer.write(connection.data_to_send())
        writer.close()


def note(path):
    with open(sys.argv[3], "a") as log:
        print(path, file=log)


def answer(connection, stream, path):
    connection.send_headers(stream, [(":status", CODES.get(path, "200")), ("server", "h2c")])
    connection.send_data(stream, b"hello\n", end_stream=True)


async def main():
    async with await asyncio.start_server(Server().serve, sys.argv[1], int(sys.argv[2])) as server:
        await server.serve_forever()


asyncio.run(main())
