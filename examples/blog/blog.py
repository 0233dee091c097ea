"""A small blog: posts are text files in a directory, pages are made from them at each request.

    blog.py [--port 2368] [--posts DIR]

It stands in for Ghost in the pause-container story, on Ghost's port. It needs nothing but python3-minimal,
which has sockets and threads but no HTTP server, so it speaks the little HTTP a blog needs by itself.

A post is `YYYY-MM-DD-slug.txt`: its first line is the title, blank lines part its paragraphs.
"""

import argparse
import os
import re
import signal
import socket
import sys
import threading

TITLE = "Podling blog"
MAX_REQUEST = 16 * 1024
IDLE_S = 30
POST_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})-([a-z0-9-]+)\.txt")

PAGE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1.0" />
<style>body {{ max-width: 40em; margin: 2em auto; font-family: serif }} time {{ color: #777 }}</style>
</head>
<body>
<header><h1><a href="/">"""
    + TITLE
    + """</a></h1></header>
{body}
<footer><p>Served by {host}, port {port}.</p></footer>
</body>
</html>
"""
)

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
}


def escape(text: str) -> str:
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(char, entity)
    return text


class Blog:
    """Posts of a directory, newest first."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def posts(self) -> list[tuple[str, str, str, str]]:
        found = []
        for name in os.listdir(self.directory):
            match = POST_NAME.fullmatch(name)
            if match:
                with open(os.path.join(self.directory, name), encoding="utf-8") as file:
                    title, _, text = file.read().partition("\n")
                found.append((match[1], match[2], title.strip(), text.strip()))
        return sorted(found, reverse=True)

    def front(self) -> tuple[str, str]:
        items = [
            f'<article><h2><a href="/{slug}/">{escape(title)}</a></h2><time>{date}</time>'
            f"<p>{escape(text.partition(chr(10) + chr(10))[0])}</p></article>"
            for date, slug, title, text in self.posts()
        ]
        return TITLE, "\n".join(items)

    def post(self, slug: str) -> tuple[str, str] | None:
        for date, name, title, text in self.posts():
            if name == slug:
                paragraphs = "".join(f"<p>{escape(part)}</p>\n" for part in text.split("\n\n"))
                return (
                    f"{title} - {TITLE}",
                    f"<article><h2>{escape(title)}</h2><time>{date}</time>\n{paragraphs}</article>",
                )
        return None

    def answer(self, method: str, path: str) -> tuple[int, str, str]:
        """Status, title and body of a page."""
        if method not in ("GET", "HEAD"):
            return 405, "Method not allowed", "<p>This blog is for reading.</p>"
        path = path.partition("?")[0]
        page = self.front() if path == "/" else self.post(path.strip("/"))
        if page is None:
            return 404, "Not found", "<p>There is no such post.</p>"
        return (200, *page)


class Server:
    def __init__(self, blog: Blog, port: int) -> None:
        self.blog = blog
        self.port = port
        self.host = socket.gethostname()

    def run(self) -> None:
        with socket.create_server(("0.0.0.0", self.port), backlog=64) as listener:
            print(f"{TITLE} listens on port {self.port}", flush=True)
            while True:
                connection, peer = listener.accept()
                threading.Thread(target=self.serve, args=(connection, peer[0]), daemon=True).start()

    def serve(self, connection: socket.socket, peer: str) -> None:
        """Requests of one connection, until the client is done with it."""
        connection.settimeout(IDLE_S)
        try:
            with connection, connection.makefile("rb") as lines:
                while self.serve_one(connection, lines, peer):
                    pass
        except OSError:
            pass  # the client went away

    def serve_one(self, connection: socket.socket, lines: socket.SocketIO, peer: str) -> bool:
        request = lines.readline(MAX_REQUEST)
        if not request:
            return False
        words = request.decode("latin-1").split()
        headers, size = {}, len(request)
        while True:
            line = lines.readline(MAX_REQUEST)
            size += len(line)
            if line in (b"\r\n", b"\n", b"") or size > MAX_REQUEST:
                break
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            words, page = ["-", "-", "HTTP/1.0"], (400, "Bad request", "<p>That was not HTTP.</p>")
        elif size > MAX_REQUEST:
            words[2], page = "HTTP/1.0", (431, "Too large", "<p>That was too much.</p>")
        else:
            page = self.blog.answer(words[0], words[1])
        # A body is not read, so the connection cannot be used again after one.
        keep = words[2] == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        keep = keep and "content-length" not in headers and "transfer-encoding" not in headers
        self.reply(connection, words[0], page, keep)
        print(f'{peer} "{words[0]} {words[1]}" {page[0]} "{headers.get("user-agent", "-")}"', flush=True)
        return keep

    def reply(self, connection: socket.socket, method: str, page: tuple[int, str, str], keep: bool) -> None:
        status, title, text = page
        body = PAGE.format(title=escape(title), body=text, host=escape(self.host), port=self.port).encode()
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\nServer: podling-blog\r\n"
            f"Content-Type: text/html; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        ).encode()
        connection.sendall(head if method == "HEAD" else head + body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "2368")))
    parser.add_argument("--posts", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "posts"))
    options = parser.parse_args()
    # As PID 1 of its container it gets no default action for signals.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    try:
        Server(Blog(options.posts), options.port).run()
    except OSError as err:
        sys.exit(f"cannot listen on port {options.port}: {err.strerror}")


if __name__ == "__main__":
    main()
