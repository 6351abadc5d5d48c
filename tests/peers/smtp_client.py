"""Sends two messages in one session, the second large, with a reset and an unknown command between them.
Usage: smtp_client.py HOST PORT RECIPIENT."""

import smtplib
import sys

host, port, recipient = sys.argv[1:]
with smtplib.SMTP(host, int(port), timeout=20) as mail:
    assert mail.ehlo()[0] == 250
    assert mail.docmd("FLY")[0] == 500
    assert mail.rset()[0] == 250
    mail.sendmail("app@shop", [f"{recipient}-small"], "Subject: small\r\n\r\n.a line that starts with a dot\r\n")
    lines = "".join(f"line {number} of a large message\r\n" for number in range(40_000))
    mail.sendmail("app@shop", [f"{recipient}-large"], f"Subject: large\r\n\r\n{lines}")
print("sent")
