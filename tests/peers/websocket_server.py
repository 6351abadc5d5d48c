"""Echoes WebSocket messages, without compression. Usage: websocket_server.py PORT. `close` makes the server close."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(socket):
    async for message in socket:
        if message == "close":
            await socket.close(4001, "as you wish")
            return
        await socket.send(message)


async def main():
    async with serve(echo, None, int(sys.argv[1]), max_size=None, compression=None) as server:
        await server.serve_forever()


asyncio.run(main())
