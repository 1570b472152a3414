"""optuna-dashboard below a path of a proxy's, with a proxy and a browser."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import optuna_dashboard
import pytest

from search import dashboard
from search.execution.worker_loop import work
from search.web.path_prefix import Rebased
from tests.search.web.test_dashboard import ask, browsed
from tests.support.shells import one_line
from tests.support.studies import context_at, real_study, running, store
from trainer.errors import UserError

PREFIX = "/lab/optuna"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one trained trial, and its artifacts."""
    there = tmp_path_factory.mktemp("prefix")
    storage = store(there)
    real_study(storage, total=1)
    work(context_at(there, storage))
    return there


@pytest.fixture(scope="module")
def behind(folder: Path) -> Iterator[int]:
    """The port of a dashboard with a prefix."""
    flags = ("--storage", "sqlite:///search.db", "--port", "0", "--path-prefix", f"{PREFIX}/")
    with running(folder, "search.dashboard", *flags) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.fullmatch(rf"optuna-dashboard: http://127\.0\.0\.1:(\d+){PREFIX}/\n", line)
        assert found, line
        yield int(found[1])


@contextmanager
def proxy(port: int, *, strips: bool) -> Iterator[tuple[int, list[str]]]:
    """A proxy that passes what lies below the prefix on, and the paths that do not.

    strips: it takes the prefix off, as nginx does with `proxy_pass http://127.0.0.1:8080/`.
    """
    elsewhere: list[str] = []

    class Passing(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            if self.path != PREFIX and not self.path.startswith(f"{PREFIX}/"):
                elsewhere.append(self.path)
                self.send_error(404)
                return
            path = self.path.removeprefix(PREFIX) if strips else self.path
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            # with its Host header, as the README says
            asked.request(self.command, path or "/", body, dict(self.headers))
            answer = asked.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("server", "date", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            asked.close()

        do_GET = do_PUT = do_POST = _pass

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Passing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, elsewhere
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("strips", [False, True])
def test_every_address_of_a_page_lies_below_the_prefix(behind: int, strips: bool) -> None:
    with proxy(behind, strips=strips) as (port, elsewhere):
        for path in (PREFIX, f"{PREFIX}/"):
            status, headers, _ = ask(port, "GET", path)
            assert (status, headers["Location"]) == (302, f"//127.0.0.1:{port}{PREFIX}/dashboard")
        status, headers, page = ask(port, "GET", f"{PREFIX}/dashboard/studies/1")
        assert (status, int(headers["Content-Length"])) == (200, len(page))
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert re.findall(rb'(?:src|href)="([^"]+)"', page) == [
            f"{PREFIX}/static/bundle.js".encode()
        ]
        status, headers, script = ask(port, "GET", f"{PREFIX}/static/bundle.js")
        assert (status, int(headers["Content-Length"])) == (200, len(script))
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert f'url_prefix:"{PREFIX}/dashboard"'.encode() in script
        zipped = {"Accept-Encoding": "gzip"}
        _, headers, short = ask(port, "GET", f"{PREFIX}/static/bundle.js", headers=zipped)
        assert headers["Content-Encoding"] == "gzip"
        assert len(short) < len(script) / 2
        assert ask(port, "GET", f"{PREFIX}/api/studies")[0] == 200
        assert elsewhere == []


@pytest.mark.parametrize("strips", [False, True])
def test_a_browser_sees_a_trial_and_its_picture_below_the_prefix(
    behind: int, tmp_path: Path, strips: bool
) -> None:
    with proxy(behind, strips=strips) as (port, elsewhere):
        address = f"http://127.0.0.1:{port}{PREFIX}"
        assert "faces" in browsed(f"{address}/", tmp_path)
        page = browsed(f"{address}/dashboard/studies/1/trials?numbers=0", tmp_path)
        assert "Trial 0 (trial_id=1)" in page
        (picture,) = re.findall(r'<img[^>]*alt="contact_sheet.png"[^>]*>', page)
        (source,) = re.findall(r'src="([^"]+)"', picture)
        assert source.startswith(f"{PREFIX}/artifacts/1/1/")
        status, headers, content = ask(port, "GET", source)
        assert (status, content[:4]) == (200, b"\x89PNG")
        # the sandbox of artifacts holds there, too
        assert headers["Content-Security-Policy"].startswith("sandbox")
        links = re.findall(r'href="(/[^"]*)"', page)
        assert links
        assert all(link.startswith(PREFIX) for link in links)
        # a browser looks for a picture of every host by itself
        assert set(elsewhere) <= {"/favicon.ico"}


def noted(port: int, body: str) -> None:
    """Put a note on the study."""
    path = f"{PREFIX}/api/studies/1"
    version = json.loads(ask(port, "GET", path)[2])["note"]["version"] + 1
    headers = {"Origin": f"http://127.0.0.1:{port}"}
    assert ask(port, "PUT", f"{path}/note", {"version": version, "body": body}, headers)[0] == 204
    foreign = {"Origin": "http://elsewhere.example"}
    assert ask(port, "PUT", f"{path}/note", {"version": 1, "body": ""}, foreign)[0] == 403


def test_a_picture_in_a_note_is_found_below_the_prefix(behind: int, tmp_path: Path) -> None:
    with proxy(behind, strips=False) as (port, elsewhere):
        # as optuna-dashboard's own editor inserts it, without a prefix or with one
        noted(port, "through the proxy ![sheet](/artifacts/1/1/0f-3a)")
        page = browsed(f"http://127.0.0.1:{port}{PREFIX}/dashboard/studies/1/note", tmp_path)
        assert "through the proxy" in page
        assert f'src="{PREFIX}/artifacts/1/1/0f-3a"' in page
        assert set(elsewhere) <= {"/favicon.ico"}


def test_another_optuna_dashboard_is_refused_instead_of_being_served_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(optuna_dashboard.__file__).parent
    (tmp_path / "public").mkdir()
    (tmp_path / "index.html").write_bytes((home / "index.html").read_bytes())
    script = (home / "public" / "bundle.js").read_bytes()
    monkeypatch.setattr(optuna_dashboard, "__file__", str(tmp_path / "__init__.py"))
    for other in (
        script.replace(b"`/csv/", b"`/table/"),
        script + b'fetch("/api/studies/7")',
        script + b"fetch(`${other}/artifacts/7`)",
        script.replace(b"this.baseURL=(", b"this.base=("),
    ):
        (tmp_path / "public" / "bundle.js").write_bytes(other)
        with pytest.raises(UserError, match="serve it under a host name of its own"):
            Rebased(lambda environ, start: [], PREFIX)


@pytest.mark.parametrize("prefix", ["optuna", "/a b", "/../x", "/api", "http://lab.example/x"])
def test_a_prefix_that_cannot_be_served_is_refused(
    folder: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--storage", f"sqlite:///{folder}/search.db", "--path-prefix", prefix]
    assert f"--path-prefix {prefix}: " in one_line(dashboard.main, capsys, *words)
