"""Ports of this machine: taking one, and saying why it cannot be had."""

from __future__ import annotations

import errno
import ipaddress
import socket

from study.errors import UserError


def listen(host: str, port: int, command: str) -> socket.socket:
    """A socket that listens at a port; 0 is any free one.

    Raises:
        UserError: the host or the port cannot be had. The message begins with the name of the command.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # Only where a socket names TCP, asyncio sends small packets at once: an answer else waits some 40 ms for the
        # acknowledgement of its head.
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen()
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise UserError(f"{command}: {refusal(error, host, port)}") from None
    return opened


def is_loopback(address: str) -> bool:
    """Whether only this machine can connect to a numeric address."""
    return ipaddress.ip_address(address).is_loopback


def refusal(error: OSError, host: str, port: int) -> str:
    """Why a server cannot listen, and what would help."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: name another one with --port, or any free one with --port 0"
    if error.errno == errno.EACCES:
        return f"port {port} is not for everyone: name one above 1023 with --port"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is no address of this machine"
    return f"cannot listen at port {port} of {host}: {error.strerror or error}"
