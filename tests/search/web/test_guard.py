from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest

from search.web.guard import MOST_ADDRESSES, MOST_FAILURES, WINDOW_S, Attempts, Guard

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

RIGHT = "right"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class App:
    """An application that remembers what reached it."""

    def __init__(self, **headers: str) -> None:
        self.headers = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.seen: list[WSGIEnvironment] = []

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        self.seen.append(environ)
        start("200 OK", list(self.headers))
        return [b"the studies"]


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


def ask(guard: Guard, method: str = "GET", **environ: Any) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of an answer; a header that is sent twice fails the test."""
    environ = {"REQUEST_METHOD": method, "REMOTE_ADDR": "10.0.0.1", **environ}
    setup_testing_defaults(environ)
    answer: list[Any] = []
    body = b"".join(guard(environ, lambda *start: answer.extend(start)))  # type: ignore[arg-type]
    status, pairs = answer
    headers = dict(pairs)
    assert len({name.lower() for name in headers}) == len(pairs)
    return int(status.split()[0]), headers, body.decode()


def attempt(guard: Guard, password: str, **environ: Any) -> int:
    return ask(guard, HTTP_AUTHORIZATION=basic(password), **environ)[0]


def test_an_address_waits_until_its_oldest_failure_is_a_minute_old() -> None:
    clock = Clock()
    guard = Guard(App(), RIGHT, False, (), clock)
    for _ in range(MOST_FAILURES):
        assert attempt(guard, "wrong") == 401
        clock.now += 1
    # even the right password: an answer would tell that a guess was right
    status, headers, text = ask(guard, HTTP_AUTHORIZATION=basic(RIGHT))
    assert (status, headers["Retry-After"]) == (429, str(int(WINDOW_S) - MOST_FAILURES))
    assert text.endswith("try again in 50 s\n")
    assert attempt(guard, RIGHT, REMOTE_ADDR="10.0.0.2") == 200
    clock.now += WINDOW_S - MOST_FAILURES - 0.5
    assert attempt(guard, RIGHT) == 429
    clock.now += 0.5
    assert attempt(guard, RIGHT) == 200
    # one old failure has left the window, so one more guess is free
    assert [attempt(guard, "wrong") for _ in range(2)] == [401, 429]


def test_slow_failures_and_missing_passwords_never_make_an_address_wait() -> None:
    clock = Clock()
    guard = Guard(App(), RIGHT, False, (), clock)
    for _ in range(3 * MOST_FAILURES):
        clock.now += WINDOW_S / (MOST_FAILURES - 1)
        assert attempt(guard, "wrong") == 401
        assert ask(guard)[0] == 401
    assert attempt(guard, RIGHT) == 200


def test_an_ipv6_network_counts_as_one_address() -> None:
    guard = Guard(App(), RIGHT, False, (), Clock())
    for last in range(MOST_FAILURES):
        assert attempt(guard, "wrong", REMOTE_ADDR=f"2001:db8::{last:x}") == 401
    assert attempt(guard, RIGHT, REMOTE_ADDR="2001:db8::ffff:1") == 429
    assert attempt(guard, RIGHT, REMOTE_ADDR="2001:db8:0:1::1") == 200


def test_failures_take_bounded_memory() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for n in range(MOST_ADDRESSES + 50):
        attempts.failed(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(attempts) == MOST_ADDRESSES
    clock.now += WINDOW_S
    attempts.failed("10.9.9.9")
    assert len(attempts) == 1


@pytest.mark.parametrize(
    "credentials",
    [
        "",
        "Basic",
        "Basic !",
        "Basic ä",
        "Bearer " + base64.b64encode(b"me:right").decode(),
        "Basic " + base64.b64encode(b"right").decode(),
        basic("right "),
        basic("Right"),
        basic(""),
    ],
)
def test_what_is_not_the_password_is_refused(credentials: str) -> None:
    app = App()
    status, headers, _ = ask(Guard(app, RIGHT, False, ()), HTTP_AUTHORIZATION=credentials)
    assert (status, app.seen) == (401, [])
    assert headers["WWW-Authenticate"].startswith("Basic ")


def test_the_application_does_not_see_the_password() -> None:
    app = App()
    assert attempt(Guard(app, "pä:ss", False, ()), "pä:ss") == 200
    assert "HTTP_AUTHORIZATION" not in app.seen[0]


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("127.0.0.1:8080", True),
        ("192.0.2.7", True),
        ("[2001:db8::1]:8080", True),
        ("lab.example", True),
        ("Lab.Example.:8080", True),
        ("", False),
        ("evil.example", False),
        ("lab.example.evil", False),
        ("xlocalhost", False),
        ("1.2.3", False),
        ("evil@localhost", False),
        ("localhost, evil.example", False),
        ("[evil.example]", False),
    ],
)
def test_only_a_name_of_this_machine_is_answered(host: str, own: bool) -> None:
    reading = Guard(App(), None, False, ["lab.example"])
    assert ask(reading, HTTP_HOST=host)[0] == (200 if own else 403)
    behind = Guard(App(), RIGHT, False, ["lab.example"])
    login = {"HTTP_AUTHORIZATION": basic(RIGHT), "HTTP_HOST": host}
    assert ask(behind, "DELETE", **login)[0] == (200 if own else 403)
    # the password guards what is read
    assert ask(behind, "GET", **login)[0] == 200


@pytest.mark.parametrize(
    ("environ", "own"),
    [
        ({}, True),
        ({"HTTP_ORIGIN": "http://localhost:8080"}, True),
        # a proxy speaks TLS
        ({"HTTP_ORIGIN": "https://LOCALHOST:8080", "HTTP_SEC_FETCH_SITE": "same-origin"}, True),
        ({"HTTP_ORIGIN": "http://localhost:8081"}, False),
        ({"HTTP_ORIGIN": "http://localhost"}, False),
        ({"HTTP_ORIGIN": "null"}, False),
        ({"HTTP_ORIGIN": ""}, False),
        ({"HTTP_SEC_FETCH_SITE": "cross-site"}, False),
    ],
)
def test_another_sites_page_may_not_change_anything(environ: dict[str, str], own: bool) -> None:
    guard = Guard(App(), None, False, ())
    here = {"HTTP_HOST": "localhost:8080", **environ}
    for method in ("POST", "PUT", "DELETE", "PATCH", "BREW"):
        assert ask(guard, method, **here)[0] == (200 if own else 403)
    assert ask(guard, "GET", **here)[0] == 200


def test_read_only_lets_only_reading_through() -> None:
    guard = Guard(App(), None, True, ())
    allowed = {
        method
        for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "BREW", "get")
        if ask(guard, method)[0] == 200
    }
    assert allowed == {"GET", "HEAD", "OPTIONS"}


def test_headers_of_the_application_stay_and_the_lacking_ones_are_added() -> None:
    app = App(content_security_policy="own", Location="http://lab.example/dashboard")
    _, headers, _ = ask(Guard(app, None, False, ()))
    assert headers["content-security-policy"] == "own"
    # behind a proxy that speaks TLS it stays https
    assert headers["Location"] == "//lab.example/dashboard"
    assert headers["X-Frame-Options"] == "DENY"
    assert "Cache-Control" not in headers


def test_a_refusal_has_the_headers_too_and_head_has_no_text() -> None:
    status, headers, text = ask(Guard(App(), RIGHT, False, ()), "HEAD")
    assert (status, text) == (401, "")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert int(headers["Content-Length"]) > 0
