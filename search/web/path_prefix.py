"""optuna-dashboard below a path of a proxy's, `https://lab.example/optuna/` say.

Its page and its script name every address from the root of the host on. Both are read once, with
the prefix put before each of these addresses; where an optuna-dashboard has others than the known
ones, it is refused instead of being served in part.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trainer.errors import UserError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

SCRIPT = "/static/bundle.js"
PAGES = "/dashboard"
# what begins an address from the root on, and how often it stands there
_IN_PAGE = {b'src="/static/bundle.js"': 1}
_IN_SCRIPT = {
    b'url_prefix:"/dashboard"': 1,
    b"`/artifacts/": 2,
    b"`${e}/artifacts/": 1,
    b"`/csv/": 2,
    # of all that begins with /api
    b"this.baseURL=(": 1,
}
_ROOTS = ("api", "artifacts", "csv", "dashboard", "static", "img")
# in quotes, or behind something else than the address of the API
_ADDRESS = re.compile(rb"""(?:["'`]|(?<!\{this\.baseURL)\})/(?:%s)\b""" % "|".join(_ROOTS).encode())
# notes are kept with the addresses of a dashboard without a prefix, which may show them as well
_IN_NOTES = b"""(()=>{const below=to=>/^\\/artifacts\\//.test(to)?"%s"+to:to;
const set=Element.prototype.setAttribute;
Element.prototype.setAttribute=function(name,to){
return set.call(this,name,name==="src"||name==="href"?below(to):to)};
const image=HTMLImageElement.prototype,src=Object.getOwnPropertyDescriptor(image,"src");
Object.defineProperty(image,"src",{...src,set(to){src.set.call(this,below(to))}})})();
"""


def checked(prefix: str) -> str:
    """The prefix without a slash at its end; empty for none. Raises UserError.

    >>> checked("/optuna/"), checked("/")
    ('/optuna', '')
    """
    path = prefix.rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9_~-][\w.~-]*)+", path, re.ASCII):
        raise UserError(f"--path-prefix {prefix}: a path is needed, /optuna say")
    if path.partition("/")[2].partition("/")[0] in _ROOTS:
        raise UserError(f"--path-prefix {prefix}: optuna-dashboard has that path itself")
    return path


class Rebased:
    """A WSGI application: optuna-dashboard with a prefix before its addresses.

    Requests come without the prefix, whether the proxy or the server took it off. Raises UserError
    for an optuna-dashboard whose addresses are not the known ones.
    """

    def __init__(self, app: WSGIApplication, prefix: str) -> None:
        import optuna_dashboard

        self._app, self._prefix = app, prefix
        home = Path(optuna_dashboard.__file__).parent
        try:
            self._page = self._moved((home / "index.html").read_bytes(), _IN_PAGE)
            script = self._moved((home / "public" / "bundle.js").read_bytes(), _IN_SCRIPT)
            script = _IN_NOTES % prefix.encode() + script
        except (OSError, ValueError):
            raise UserError(
                f"--path-prefix {prefix}: optuna-dashboard {optuna_dashboard.__version__} has its"
                " addresses in other places than those known here; serve it under a host name of"
                " its own"
            ) from None
        self._script = gzip.compress(script, 6, mtime=0)

    def _moved(self, content: bytes, known: dict[bytes, int]) -> bytes:
        """Raises ValueError where other addresses than the known ones stand there."""
        addresses = sum(count for text, count in known.items() if _ADDRESS.search(text))
        if len(_ADDRESS.findall(content)) != addresses:
            raise ValueError("an unknown address")
        for text, count in known.items():
            if content.count(text) != count:
                raise ValueError(text)
            content = content.replace(text, self._after_prefix(text))
        return content

    def _after_prefix(self, text: bytes) -> bytes:
        prefix = self._prefix.encode()
        if b"/" not in text:
            return text.replace(b"=(", b'="%s"+(' % prefix)
        return text.replace(b"/", prefix + b"/", 1)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"].rstrip("/")
        if path == SCRIPT and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._answer(environ, start_response)
        page = path == PAGES or path.startswith(f"{PAGES}/")
        if page:
            # a part of the page, or none of it, would be the other one's
            for name in ("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_NONE_MATCH", "HTTP_RANGE"):
                environ.pop(name, None)
        whole = False

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            nonlocal whole
            whole = page and status.startswith("200")
            return start_response(status, [self._header(*it, whole) for it in headers], *exc_info)

        body = self._app(environ, start)
        if not whole or environ["REQUEST_METHOD"] == "HEAD":
            return body
        if hasattr(body, "close"):
            body.close()
        return [self._page]

    def _header(self, name: str, value: str, page: bool) -> tuple[str, str]:
        if page and name.lower() == "content-length":
            return name, str(len(self._page))
        if name.lower() == "location":
            to = urlsplit(value)
            return name, to._replace(path=self._prefix + to.path).geturl()
        return name, value

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        headers = [("Content-Type", "text/javascript; charset=UTF-8"), ("Vary", "Accept-Encoding")]
        body = self._script
        if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
            headers.append(("Content-Encoding", "gzip"))
        else:
            body = gzip.decompress(body)
        headers.append(("Content-Length", str(len(body))))
        start_response("200 OK", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
