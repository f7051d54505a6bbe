"""A websocket server that answers what it was sent; the path of every connection is written to the file that is named."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(connection):
    with open(sys.argv[3], "a") as log:
        print(connection.request.path, file=log)
    async for message in connection:
        await connection.send(message)


def refuse(connection, request):
    return connection.respond(426, "no\n") if request.path == "/public/refused" else None


async def main():
    async with serve(echo, sys.argv[1], int(sys.argv[2]), max_size=None, process_request=refuse):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
