"""Put on PYTHONPATH while notebooks run: a connection to another machine, or asking for its name, fails and is written down."""

import os
import socket
import sys

LOCAL = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}
ASKING = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
SENDING = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def _host(event, args):
    if event in ASKING:
        return args[0]
    if event in SENDING and getattr(args[0], "family", None) != socket.AF_UNIX and isinstance(args[1], tuple):
        return args[1][0]
    return None


def _stay_home(event, args):
    if not event.startswith("socket."):
        return
    host = _host(event, args)
    host = host.decode() if isinstance(host, bytes) else host
    if host is None or host in LOCAL or host.startswith("127.") or host == socket.gethostname():
        return
    if log := os.environ.get("STEPWISE_SOCKET_LOG"):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{event} {host}\n")
    raise OSError(f"{event} to {host!r}: the notebooks run without a network")


sys.addaudithook(_stay_home)
