"""A server that answers the live page as told, many states at once, and hears from the pages what they show."""

import contextlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files

PAGE = files("batchpilot.serving.server").joinpath("page")
SILENCE = "hang up"
"""An answer that is none: the connection is closed."""

_REPORTING = """<script>
window.onerror = (message) => { document.documentElement.dataset.error = message; };
window.onunhandledrejection = (event) => { document.documentElement.dataset.error = event.reason; };
setInterval(() => {
  const root = document.documentElement, label = (element) => element.getAttribute("aria-label");
  const paths = [...document.querySelectorAll("svg path")].map((path) => path.getAttribute("d")).join(" ");
  fetch("report", { method: "POST", body: JSON.stringify({
    text: document.body.innerText, title: document.title, tone: document.querySelector("#verdict").className,
    error: root.dataset.error ?? null, width: innerWidth, overflow: root.scrollWidth - root.clientWidth,
    charts: [...document.querySelectorAll("figure svg[role=img]")].map(label), paths,
    stale: document.querySelector("main").classList.contains("stale") }) });
}, 500);
</script>"""

_MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


@dataclass
class State:
    """One page.

    Attributes:
        answers: to its polls, one after the other, the last for ever: data, a status, or `SILENCE`.
        width: of the page in pixels.
        script: run in the page besides its own.
        polls: how many there were.
        queries: of the polls.
        report: the last thing the page told of itself.
    """

    answers: list
    width: int = 1200
    script: str = ""
    polls: int = 0
    queries: list = field(default_factory=list)
    report: dict = field(default_factory=dict)

    def shows(self, text):
        """Whether the page shows a text."""
        return text in self.report.get("text", "")


@contextlib.contextmanager
def answering(states):
    """Yields an address under which `/NAME/` is the page in that state, and `/` all of them."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path, _, query = self.path.partition("?")
            _, name, *rest = path.split("/")
            rest = "/".join(rest)
            if not name:
                frames = (
                    f'<iframe src="/{key}/" width="{state.width}" height="900"></iframe>'
                    for key, state in states.items()
                )
                self._send(200, "text/html", "".join(frames).encode())
            elif name not in states:
                self._send(404, "text/plain", b"")
            elif rest == "":
                page = PAGE.joinpath("index.html").read_text("utf-8")
                script = f"<script>{states[name].script}</script>"
                self._send(200, "text/html", page.replace("</body>", f"{_REPORTING}{script}</body>").encode())
            elif rest == "api/live":
                self._live(states[name], query)
            else:
                part = PAGE.joinpath(rest.removeprefix("page/"))
                self._send(200, _MEDIA_TYPES[rest.rpartition(".")[2]], part.read_bytes())

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            states[self.path.split("/")[1]].report = json.loads(body)
            self._send(204, "text/plain", b"")

        def _live(self, state, query):
            answer = state.answers[min(state.polls, len(state.answers) - 1)]
            state.polls += 1
            state.queries.append(query)
            if answer is SILENCE:
                self.close_connection = True
            elif isinstance(answer, int):
                self._send(answer, "text/plain", b"no")
            else:
                self._send(200, "application/json", json.dumps(answer).encode())

        def _send(self, status, kind, body):
            self.send_response(status)
            self.send_header("content-type", f"{kind}; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
