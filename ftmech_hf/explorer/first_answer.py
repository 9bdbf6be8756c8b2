"""The first answer in the page itself: seen before the page's scripts have run, and where none run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

APP = b"<gradio-app"
"""Before what gradio's scripts fill."""


class FirstAnswer:
    """Puts HTML into the page that a server gives, where its scripts will put theirs.

    Args:
        app: the server.
        shown: the HTML; it takes itself away once the scripts have run.
    """

    def __init__(self, app: ASGIApp, shown: str) -> None:
        self.app, self.shown = app, shown.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        started: list[Message] = []

        async def send_changed(message: Message) -> None:
            """The start waits for the body, which it says the length of."""
            if message["type"] == "http.response.start":
                started.append(message)
                return
            body = message.get("body", b"")
            if started:
                start = started.pop()
                if APP in body:
                    message = {**message, "body": (body := body.replace(APP, self.shown + APP, 1))}
                    kept = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
                    start = {**start, "headers": [*kept, (b"content-length", str(len(body)).encode())]}
                await send(start)
            await send(message)

        await self.app(scope, receive, send_changed)
