from __future__ import annotations

import base64
import html
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from search.dashboard import main
from search.execution.worker_loop import work
from search.reporting.dashboard_notes import publish
from search.reporting.run_summary import command
from search.strategy.loading import load_study
from search.web.guard import MOST_FAILURES
from search.web.password import PASSWORD
from tests.support.browser import browse
from tests.support.shells import one_line
from tests.support.studies import (
    context_at,
    play,
    real_study,
    setup_of,
    store,
    study_of,
    wait_until,
)

SECRET = "geheim: ä b"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one trained trial, and its artifacts."""
    there = tmp_path_factory.mktemp("dashboard")
    storage = store(there)
    real_study(storage, total=1)
    work(context_at(there, storage))
    publish(load_study(storage, "faces"), {"watch": "<script>alert(1)</script>"})
    return there


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where the dashboard of that store is served, by the command that a run prints."""
    url = f"sqlite:///{folder}/search.db"
    shown = command("search.dashboard", storage=url, runs=str(folder / "runs"))
    with subprocess.Popen(f"exec {shown} --port 0", shell=True, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        line = server.stdout.readline().decode()
        try:
            yield re.sub(r"^optuna-dashboard: (http://127\.0\.0\.1:\d+)/\n$", r"\1", line)
        finally:
            server.terminate()


@contextmanager
def served(
    folder: Path, *flags: str, host: str = "127.0.0.1", env: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A dashboard on the store of `folder`, and its port."""
    words = [sys.executable, "-m", "search.dashboard", "--storage"]
    words += [f"sqlite:///{folder}/search.db", "--runs", str(folder / "runs")]
    with subprocess.Popen(
        [*words, "--host", host, "--port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    ) as server:
        assert server.stdout is not None
        try:
            yield server, int(server.stdout.readline().rpartition(":")[2].strip().strip("/"))
        finally:
            server.kill()


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[int]:
    """The port of a dashboard that every network may reach, with the password SECRET."""
    file = folder / "password"
    file.write_text(f"{SECRET}\nnot this line\n", encoding="utf-8")
    file.chmod(0o600)
    flags = ["--password-file", str(file), "--allow-host", "lab.example"]
    with served(folder, *flags, host="0.0.0.0") as (_, port):
        yield port


@pytest.fixture(scope="module")
def read_only(folder: Path) -> Iterator[int]:
    """The port of a read-only dashboard of this machine, without a password."""
    with served(folder, "--read-only") as (_, port):
        yield port


@pytest.fixture(scope="module")
def routes(folder: Path) -> list[tuple[str, str]]:
    """Method and path of every route that optuna-dashboard has, with 1 for every number."""
    from optuna_dashboard import wsgi

    filled = {"filename:path": "bundle.js", "plot_type": "slice", ":re:(/.*)?": "/studies/1"}
    return [
        (route.method, re.sub(r"<(.*?)>(?=/|$)", lambda it: filled.get(it[1], "1"), route.rule))
        for route in wsgi(store(folder)).routes
    ]


def basic(password: str = SECRET, user: str = "anyone") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def ask(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    source: str = "127.0.0.1",
) -> tuple[int, Mapping[str, str], bytes]:
    """One request: status, headers and body of the answer."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", port, timeout=20, source_address=(source, 0)
    )
    try:
        sent = None if body is None else json.dumps(body)
        kind = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, sent, {**kind, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


# lists of optuna-dashboard's answers whose order means nothing: it keeps a search space in a set,
# and reads attributes, artifacts and figures from rows that are in no order
UNORDERED = ("choices", "user_attrs", "union_user_attrs", "artifacts", "plotly_graph_objects")


def meant(answer: tuple[int, Mapping[str, str], bytes]) -> Any:
    """What an answer says, in whatever order it is: of JSON the content, of all else the bytes."""
    _, headers, body = answer
    if not headers.get("Content-Type", "").startswith("application/json"):
        return body

    def sorted_out(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: sorted_out(value[key], key) for key in sorted(value)}
        if isinstance(value, list):
            items = [sorted_out(one) for one in value]
            return sorted(items, key=json.dumps) if name in UNORDERED else items
        return value

    return sorted_out(json.loads(body))


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return bytes(answer.read())


def browsed(url: str, folder: Path, budget_ms: int = 8000) -> str:
    """The page as a browser has built it, without complaints; skipped, with the reason, without."""
    done = browse(url, folder / "browser", "--dump-dom", budget_ms=budget_ms)
    assert "Content Security Policy" not in done.stderr
    assert "Uncaught" not in done.stderr
    return html.unescape(done.stdout)


def test_a_browser_shows_a_trial_with_its_parameters_and_contact_sheet(
    folder: Path, address: str, tmp_path: Path
) -> None:
    page = browsed(f"{address}/dashboard/studies/1/trials?numbers=0", tmp_path)
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script).*?</\1>", "", page, flags=re.S))
    (trial,) = load_study(store(folder), "faces").get_trials()
    assert "Trial 0 (trial_id=1)" in text
    for name, value in trial.params.items():
        assert f"{name} {value}" in text
    for epoch, score in trial.intermediate_values.items():
        assert f"{epoch} {score}" in text
    (picture,) = re.findall(r'<img[^>]*alt="contact_sheet.png"[^>]*>', page)
    (source,) = re.findall(r'src="([^"]+)"', picture)
    assert read(address + source).startswith(b"\x89PNG")


def test_a_browser_shows_the_notes_of_a_study_and_of_its_trials(
    folder: Path, address: str, tmp_path: Path
) -> None:
    page = browsed(f"{address}/dashboard/studies/1/note", tmp_path)
    assert "<strong>1 of 1 trials finished</strong>" in page
    # in a code element, as text
    assert re.search(r"<code[^>]*><script>alert\(1\)</script></code>", page), page[-900:]
    page = browsed(f"{address}/dashboard/studies/1/trials?numbers=0", tmp_path)
    assert "<th>best val F</th>" in page or "<td>best val F</td>" in page


def test_a_browser_draws_the_figures_of_a_study(folder: Path, address: str, tmp_path: Path) -> None:
    page = browsed(f"{address}/dashboard/studies/1", tmp_path)
    # text of the plots' SVG
    titles = re.findall(r"<text[^>]*gtitle[^>]*>(?:<tspan[^>]*>)?([^<]+)", page)
    assert "Learning curves" in titles


def test_only_this_machine_is_served(address: str) -> None:
    port = int(address.rpartition(":")[2])
    assert b"studies" not in read(address)
    assert json.loads(read(f"{address}/api/studies"))["study_summaries"][0]["study_name"] == "faces"
    # a server for every network would answer at each address of the loopback
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5).close()


def test_the_plain_optuna_dashboard_works_on_the_store(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    flags = ["--artifact-dir", str(folder / "runs" / "artifacts"), "--port", str(port)]
    command = [str(program), f"sqlite:///{folder}/search.db", *flags]
    answer: dict[str, Any] = {}

    def answered() -> bool:
        try:
            answer.update(json.loads(read(f"http://127.0.0.1:{port}/api/studies/1")))
        except urllib.error.URLError:
            return False
        return True

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(answered, "optuna-dashboard")
            (trial,) = answer["trials"]
            sheet = next(it for it in trial["artifacts"] if it["filename"] == "contact_sheet.png")
            picture = read(f"http://127.0.0.1:{port}/artifacts/1/1/{sheet['artifact_id']}")
        finally:
            server.terminate()
    assert trial["state"] == "Complete"
    assert picture.startswith(b"\x89PNG")


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


NEEDS_PASSWORD = (
    "others can reach it, so a password is needed; give one by --password-file FILE or in"
    " SEARCH_DASHBOARD_PASSWORD\n"
)


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    url = f"sqlite:///{folder}/search.db"
    return one_line(main, capsys, "--storage", url, "--runs", folder / "runs", *flags)


def test_a_port_in_use_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with taken_port() as port:
        line = refusal(folder, capsys, "--port", str(port))
    assert line == f"error: --port {port}: Address already in use; name another port\n"


@pytest.mark.parametrize(
    ("flag", "value", "fix"),
    [
        *(("--port", port, "a number from 0 to 65535 is needed\n") for port in ("70000", "-1")),
        ("--allow-host", "https://lab.example", "a host name alone is needed"),
        *(("--host", host, NEEDS_PASSWORD) for host in ("0.0.0.0", "::", "0")),
    ],
)
def test_an_address_that_cannot_be_served_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str, fix: str
) -> None:
    assert refusal(folder, capsys, flag, value).startswith(f"error: {flag} {value}: {fix}")


def test_a_port_that_is_no_number_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    one_line(main, capsys, "--port", "web")


def test_a_store_that_does_not_exist_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "search.db does not exist" in refusal(tmp_path, capsys, "--port", "0")
    assert list(tmp_path.iterdir()) == []


def test_a_dashboard_ends_with_its_parent(folder: Path) -> None:
    flags = ["--storage", f"sqlite:///{folder}/search.db", "--runs", str(folder / "runs")]
    # a process that is not its parent, as a supervisor that was killed no longer is
    flags += ["--port", "0", "--parent", str(os.getppid())]
    command = [sys.executable, "-m", "search.dashboard", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_no_card_of_this_machine_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv(PASSWORD, SECRET)
    line = refusal(folder, capsys, "--port", "0", "--host", host).splitlines()[-1]
    assert line.startswith(f"error: --host {host}: ")
    assert line.endswith("; name an address of this machine")


def test_a_password_does_not_stay_in_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, SECRET)
    assert SECRET not in refusal(tmp_path, capsys, "--port", "0")
    child = subprocess.run(["env"], capture_output=True, text=True, check=True)
    assert PASSWORD not in child.stdout


@pytest.mark.parametrize(("text", "said"), [("", "empty"), ("\nx", "empty"), (None, "No such")])
def test_a_password_file_without_a_password_is_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    said: str,
) -> None:
    file = tmp_path / "password"
    if text is not None:
        file.touch(0o600)
        file.write_text(text)
    line = refusal(folder, capsys, "--password-file", str(file))
    assert line.startswith(f"error: --password-file {file}: {said}")


def test_an_empty_password_in_the_environment_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, "")
    assert refusal(folder, capsys).startswith(f"error: {PASSWORD}: empty")


def test_a_password_file_that_others_can_read_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    file.chmod(0o644)
    # there is no store, so it ends right after
    assert main(["--storage", f"sqlite:///{tmp_path}/no.db", "--password-file", str(file)]) == 2
    warning = capsys.readouterr().err.splitlines()[0]
    assert warning == (
        f"warning: --password-file {file}: others on this machine can read it; chmod 600 fixes that"
    )


def test_without_the_password_every_route_and_method_is_401(
    guarded: int, routes: list[tuple[str, str]]
) -> None:
    paths = {path for _, path in routes} | {"/", "/none", "/artifacts/1/../x", "/static/bundle.js"}
    assert len(paths) > 15
    assert {"/dashboard/studies/1", "/api/studies/1", "/artifacts/1/1/1"} <= paths
    answers = {(method, path): ask(guarded, method, path) for path in paths for method in METHODS}
    assert {asked: status for asked, (status, _, _) in answers.items() if status != 401} == {}
    for _, headers, body in answers.values():
        assert headers["Www-Authenticate"].startswith("Basic realm=")
        assert b"faces" not in body


def test_a_wrong_password_is_401_and_the_right_one_opens_for_any_user(guarded: int) -> None:
    for wrong in (SECRET[:-1], f"{SECRET}\nnot this line"):
        assert ask(guarded, "GET", "/api/studies", headers=basic(wrong))[0] == 401
    for user in ("", "ann"):
        status, headers, body = ask(guarded, "GET", "/api/studies", headers=basic(user=user))
        assert (status, headers["Cache-Control"]) == (200, "no-store")
        assert b"faces" in body


def test_an_address_that_guesses_has_to_wait_and_others_do_not(guarded: int) -> None:
    def guess(password: str, source: str) -> tuple[int, Mapping[str, str]]:
        return ask(guarded, "GET", "/", headers=basic(password), source=source)[:2]

    statuses = [guess(f"guess {n}", "127.0.0.9")[0] for n in range(MOST_FAILURES + 1)]
    assert statuses == [401] * MOST_FAILURES + [429]
    status, headers = guess(SECRET, "127.0.0.9")
    assert status == 429
    assert 0 < int(headers["Retry-After"]) <= 60
    assert guess(SECRET, "127.0.0.8")[0] == 302


def test_a_browser_sees_the_studies_after_login_and_nothing_before(
    guarded: int, tmp_path: Path
) -> None:
    assert "faces" not in browsed(f"http://127.0.0.1:{guarded}/", tmp_path, 3000)
    login = f"any:{quote(SECRET)}"
    assert "faces" in browsed(f"http://{login}@127.0.0.1:{guarded}/", tmp_path, 3000)


def test_a_foreign_page_changes_nothing(guarded: int) -> None:
    path, note = "/api/studies/1/note", {"version": 1, "body": "foreign"}
    here = f"127.0.0.1:{guarded}"
    for foreign in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{guarded + 1}"},
        {"Host": "lab.example", "Origin": f"http://{here}"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        status, _, body = ask(guarded, "PUT", path, note, {**basic(), **foreign})
        assert (status, foreign) == (403, foreign)
        assert body.count(b"\n") == 1
    _, _, body = ask(guarded, "GET", "/api/studies/1", headers=basic())
    assert b"foreign" not in body


def test_a_page_of_another_name_for_this_machine_reads_nothing_without_a_password(
    address: str,
) -> None:
    port = int(address.rpartition(":")[2])
    status, _, body = ask(port, "GET", "/api/studies", headers={"Host": "rebound.example"})
    assert (status, b"faces" in body) == (403, False)
    assert b"--allow-host rebound.example" in body
    assert ask(port, "GET", "/api/studies", headers={"Host": f"localhost:{port}"})[0] == 200


def test_a_person_with_the_password_can_change_everything(folder: Path, guarded: int) -> None:
    storage = store(folder)
    study = study_of(storage, "scratch")
    trial = study.ask()
    host = f"lab.example:{guarded}"
    login = {**basic(), "Host": host, "Origin": f"https://{host}"}

    def change(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, _, answer = ask(guarded, method, path, body, login)
        return status, json.loads(answer or b"null")

    own = f"/api/studies/{study._study_id}"
    assert change("PUT", f"{own}/note", {"version": 1, "body": "mine"})[0] == 204
    attrs = {"user_attrs": {"seen": True}}
    assert change("POST", f"/api/trials/{trial._trial_id}/user-attrs", attrs)[0] == 204
    assert load_study(storage, "scratch").trials[0].user_attrs["seen"] is True
    assert b"mine" in ask(guarded, "GET", own, headers=basic())[2]

    picture = {"file": "data:text/plain;base64,aGVsbG8=", "filename": "hello.txt"}
    files = f"/artifacts/{study._study_id}"
    kept = []
    for place in (files, f"{files}/{trial._trial_id}"):
        status, answer = change("POST", f"/api{place}", picture)
        assert status == 201
        kept.append(f"{place}/{answer['artifact_id']}")
        assert ask(guarded, "GET", kept[-1], headers=basic())[2] == b"hello"
    assert change("DELETE", f"/api{kept[1]}")[0] == 204
    assert ask(guarded, "GET", kept[1], headers=basic())[0] == 404
    # gone from the folder already, as after a tidying by hand
    (folder / "runs" / "artifacts" / kept[0].rpartition("/")[2]).unlink()
    assert change("DELETE", own, {})[0] == 204
    assert ask(guarded, "GET", own, headers=basic())[0] == 404


def test_read_only_refuses_changes_and_shows_everything(
    address: str, read_only: int, routes: list[tuple[str, str]]
) -> None:
    changing = [route for route in routes if route[0] != "GET"]
    assert {method for method, _ in changing} == {"POST", "PUT", "DELETE"}
    for method, path in [*changing, ("PATCH", "/api/studies/1"), ("BREW", "/")]:
        status, _, body = ask(read_only, method, path, {})
        assert (status, method, path) == (403, method, path)
        assert b"read-only" in body
    port = int(address.rpartition(":")[2])
    before = meant(ask(port, "GET", "/api/studies/1"))
    for path in [path for method, path in routes if method == "GET"]:
        shown, there = ask(read_only, "GET", path), ask(port, "GET", path)
        assert (path, shown[0], meant(shown)) == (path, there[0], meant(there))
    assert meant(ask(port, "GET", "/api/studies/1")) == before


def test_only_the_order_of_what_has_none_is_left_out_of_an_answer() -> None:
    def said(choices: str, epochs: str = "12", name: str = "dice") -> Any:
        space = [{"name": name, "distribution": {"choices": [{"value": one} for one in choices]}}]
        body = json.dumps({"union_search_space": space, "epochs": list(epochs)}).encode()
        return meant((200, {"Content-Type": "application/json"}, body))

    assert said("abc") == said("cab")
    assert said("abc") != said("abd")
    assert said("abc") != said("abbc")
    assert said("abc") != said("abc", epochs="21")
    assert said("abc") != said("abc", name="T_0")


def test_a_dashboard_that_is_asked_twice_says_the_same(folder: Path) -> None:
    # optuna-dashboard merges a search space with itself, in a set, each time that it is asked:
    # the second answer of a process has the choices in another order
    with served(folder) as (_, port):
        first, second = (ask(port, "GET", "/api/studies/1") for _ in range(2))
    names = {one["name"] for one in json.loads(first[2])["union_search_space"]}
    assert {"T_0", "dice_schedule"} <= names
    assert meant(first) == meant(second)


def uploaded(folder: Path, name: str, text: str) -> str:
    """The path of an artifact of the study."""
    file = folder / name
    file.write_text(text)
    artifact = upload_artifact(
        artifact_store=FileSystemArtifactStore(folder / "runs" / "artifacts"),
        file_path=str(file),
        study_or_trial=load_study(store(folder), "faces"),
    )
    return f"/artifacts/1/{artifact}"


RUN = "document.documentElement.setAttribute('id', 'r' + 'an')"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.html", f"<p>shown</p><script>{RUN}</script>"),
        (
            "picture.svg",
            f"<svg xmlns='http://www.w3.org/2000/svg'><text>shown</text><script>{RUN}</script></svg>",
        ),
    ],
)
def test_an_uploaded_page_runs_no_script(
    folder: Path, address: str, tmp_path: Path, name: str, text: str
) -> None:
    page = browsed(address + uploaded(folder, name, text), tmp_path, 500)
    assert "shown" in page
    assert 'id="ran"' not in page


def test_an_uploaded_script_is_served_as_text(folder: Path, address: str) -> None:
    port = int(address.rpartition(":")[2])
    _, headers, _ = ask(port, "GET", uploaded(folder, "worker.js", "1"))
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


def answered(port: int, path: str, *more: str) -> bytes:
    """The answer to a request that is sent as it stands."""
    lines = [f"GET {path} HTTP/1.0", f"Host: 127.0.0.1:{port}", *more]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return b"".join(iter(lambda: connection.recv(65536), b""))


STEPS = ("..", "%2e%2e", ".%2e", "%252e%252e", "..%00", "..;", "%c0%ae%c0%ae", "..%ff")
SLASHES = ("/", "%2f", "%252f", "\\", "%5c", "//")


def test_no_path_leads_out_of_the_artifact_folder(folder: Path, address: str) -> None:
    port = int(address.rpartition(":")[2])
    secret = folder / "runs" / "outside"
    secret.write_text("OUTSIDE")
    # in an address as it stands, a space would end it
    outside = quote(str(secret))
    link = uploaded(folder, "link", "inside")
    entry = folder / "runs" / "artifacts" / link.rpartition("/")[2]
    assert answered(port, link).startswith(b"HTTP/1.0 200 OK")
    entry.unlink()
    entry.symlink_to(secret)
    folder_entry = uploaded(folder, "folder", "inside")
    there = folder / "runs" / "artifacts" / folder_entry.rpartition("/")[2]
    there.unlink()
    there.mkdir()
    gone = uploaded(folder, "gone", "inside")
    (folder / "runs" / "artifacts" / gone.rpartition("/")[2]).unlink()
    paths = [
        *(
            f"/artifacts/{a}{b}{step}{slash}outside"
            for a in ("1", "1/1")
            for b in SLASHES
            for step in STEPS
            for slash in SLASHES
        ),
        *(f"/artifacts/1/{start}{outside}" for start in ("", "/", "%2f", "%00", "file://")),
        *(f"/static/{step}{slash}{step}{slash}_app.py" for step in STEPS for slash in SLASHES),
        *(link, f"{link}/", f"{link}%00", f"/{link}", f"/art%ffifacts{link[10:]}"),
        *(folder_entry, gone, "/artifacts/1/1/0f", "/artifacts/9/0f", "/artifacts/1/9/0f"),
        *("/artifacts/-1/0f", f"/artifacts/{2**31}/0f", f"/artifacts/1/{10**30}/0f"),
        *(
            f"/artifacts/{'9' * 5000}/0f",
            "/artifacts/1/0f%0d%0aX:%20y",
            "/artifacts/",
            "/artifacts",
        ),
    ]
    answers = {path: answered(port, path) for path in paths}
    strange = {path: it[:80] for path, it in answers.items() if b" 404 " not in it[:14]}
    assert strange == {}
    assert not any(b"OUTSIDE" in it or b"create_app" in it for it in answers.values())


def has_ipv6() -> bool:
    """Whether this machine has the address ::1; many containers have not."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.long
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ctrl_c_ends_a_dashboard_quietly_on_ipv6_too(folder: Path) -> None:
    with served(folder, host="::1") as (server, port):
        shown = json.loads(read(f"http://[::1]:{port}/api/studies"))
        assert shown["study_summaries"][0]["study_name"] == "faces"
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=120)
    assert (server.returncode, out, err) == (0, "", "")


@pytest.mark.long
def test_a_number_that_two_trials_have_is_told_and_the_other_studies_are_shown(
    tmp_path: Path,
) -> None:
    storage = store(tmp_path)
    play(study_of(storage), storage, setup_of(), trials=2)
    study_of(storage, "others")
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE trials SET number = 0")
    storage.close()
    with served(tmp_path) as (server, port):
        status, _, body = ask(port, "GET", "/api/studies/2")
        server.kill()
        _, err = server.communicate()
    assert (status, b"others" in body) == (200, True)
    assert 'trials of study "faces" have the number 0 (trial_id 1, 2)' in err
    assert err.startswith("warning: ")
