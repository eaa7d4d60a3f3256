"""Sockets that listen."""

from __future__ import annotations

import asyncio
import socket

from study.deploy.listening import listen


def test_small_answers_are_sent_at_once() -> None:
    """Without TCP_NODELAY the body of an answer waits for the acknowledgement of its head: some 40 ms."""

    async def option_of_a_connection() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            found.set_result(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = listen("127.0.0.1", 0, "serve")
        async with await asyncio.start_server(connected, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            try:
                return await found
            finally:
                writer.close()

    assert asyncio.run(option_of_a_connection()) != 0
