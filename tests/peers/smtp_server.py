"""A mail server on aiosmtpd. Usage: smtp_server.py PORT FOLDER. Each message becomes a file in FOLDER, named by recipient."""

import asyncio
import pathlib
import sys

from aiosmtpd.smtp import SMTP


class Keep:
    async def handle_DATA(self, _server, _session, envelope):
        for recipient in envelope.rcpt_tos:
            path = pathlib.Path(sys.argv[2], recipient)
            path.write_bytes(f"{envelope.mail_from}\n".encode() + envelope.content)
        return "250 kept"


async def main():
    loop = asyncio.get_running_loop()
    handler = Keep()
    server = await loop.create_server(lambda: SMTP(handler, hostname="mail"), None, int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
