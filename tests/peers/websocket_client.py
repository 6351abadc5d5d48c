"""Talks to websocket_server.py in every way and prints what it saw as JSON. Usage: websocket_client.py URL LARGE_MIB."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

# Seconds for any one answer.
TIMEOUT = 30


async def soon(answer):
    return await asyncio.wait_for(answer, TIMEOUT)


async def talk(url, large):
    async with connect(url, max_size=None, compression=None, proxy=None) as socket:
        seen = {}
        for name, message in {"text": "grüße", "empty": "", "binary": bytes(range(256)), "large": b"\xa5" * large}.items():
            await socket.send(message)
            seen[name] = await soon(socket.recv()) == message
        await socket.send(["in ", "three ", "frames"])
        seen["fragments"] = await soon(socket.recv())
        seen["ping"] = await soon(await socket.ping(b"are you there")) >= 0
        for number in range(1000):
            await socket.send(str(number))
        answers = [await soon(socket.recv()) for _ in range(1000)]
        seen["many"] = answers == [str(number) for number in range(1000)]
        await socket.send("close")
        try:
            await soon(socket.recv())
        except ConnectionClosed as closed:
            seen["closed"] = [closed.rcvd.code, closed.rcvd.reason]
    return seen


async def main():
    url, large = sys.argv[1], int(sys.argv[2]) << 20
    together = await asyncio.gather(*(talk(url, length) for length in (large, 1000, 70_000)))
    # Going away first is the client's right, too.
    async with connect(url, compression=None, proxy=None) as socket:
        await socket.close(1000, "bye")
    together[0]["client_closed"] = socket.close_code
    json.dump(together, sys.stdout)


asyncio.run(main())
