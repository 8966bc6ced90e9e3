"""Where the job server is, and what answers in its place."""

import http.server
import re
import subprocess
import sys
import threading

import pytest

from launch.cli.refusals import RunError, UserError
from launch.jobs import server
from launch.jobs.server import AGENT_TRIES, connect, follow, send, server_address


@pytest.mark.parametrize(
    ("address", "environ", "expected"),
    [
        ("http://head:8265/", {"RAY_ADDRESS": "http://other:1"}, "http://head:8265"),
        (None, {"RAY_API_SERVER_ADDRESS": "https://h", "RAY_ADDRESS": "http://o"}, "https://h"),
        (None, {"RAY_ADDRESS": "http://o:1"}, "http://o:1"),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, "http://127.0.0.1:8265"),
        (None, {}, "http://127.0.0.1:8265"),
    ],
)
def test_the_address_given_wins_over_the_environment(address, environ, expected):
    assert server_address(address, environ) == expected


@pytest.mark.parametrize("address", ["ray://head:10001", "head:8265", "http://", "http://h:port"])
def test_an_address_that_is_no_job_server_is_refused(address):
    with pytest.raises(UserError, match=r"^address must be the job server's"):
        server_address(address, {})


class Answer(http.server.BaseHTTPRequestHandler):
    """A server that gives one answer to everything."""

    status, body = 404, b""

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def answering(monkeypatch):
    """Start a server that answers with a status; returns its address."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    servers = []

    def start(status, body=b""):
        handler = type("Given", (Answer,), {"status": status, "body": body})
        started = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=started.serve_forever, daemon=True).start()
        servers.append(started)
        return f"http://127.0.0.1:{started.server_port}"

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (401, b"Unauthorized", "asks for a token and none was sent"),
        (403, b"Forbidden", "refused the token of RAY_AUTH_TOKEN or ~/.ray/auth_token"),
        (404, b"", "is no job server of Ray"),
        (500, b"", "is no job server of Ray"),
        (200, b"<html>", "is no job server of Ray"),
        (200, b'{"version": "4", "ray_version": "1.0.0"}', "is no job server of Ray"),
        (200, b'{"other": 1}', "is no job server of Ray"),
    ],
)
def test_what_answers_instead_of_a_job_server_is_named(answering, status, body, sentence):
    with pytest.raises(UserError) as refusal:
        connect(answering(status, body))
    message = str(refusal.value)
    assert sentence in message
    assert "\n" not in message
    assert "0123456789abcdef" not in message


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "asks for a token and none was sent"),
        ({"RAY_AUTH_TOKEN_PATH": "/no/file"}, r"RAY_AUTH_TOKEN_PATH must name .* got '/no/file'$"),
    ],
)
def test_a_token_that_is_not_found_here_is_not_called_refused(
    answering, monkeypatch, tmp_path, variables, sentence
):
    # Ray reads the variables once in a process.
    called = f"from launch.jobs.server import connect; connect({answering(401)!r})"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ran = subprocess.run([sys.executable, "-c", called], capture_output=True, text=True)
    assert re.search(sentence, ran.stderr.splitlines()[-1])


def test_nobody_answering_is_one_sentence(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with pytest.raises(UserError, match=r"^no job server answers at 'http://127.0.0.1:9' \(addr"):
        connect("http://127.0.0.1:9")


class Client:
    """A job server whose agent is up at the given try."""

    def __init__(self, up_at, said):
        self.up_at, self.said, self.tries = up_at, said, 0

    def submit_job(self, **job):
        self.tries += 1
        if self.tries < self.up_at:
            raise RuntimeError(f"Request failed with status code 500: {self.said}")


def test_a_job_is_sent_once_the_server_that_has_just_started_can_start_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    no_agent = "No available agent to submit job, please try again later."
    for up_at, tries in ((1, 1), (3, 3), (99, AGENT_TRIES)):
        client = Client(up_at, no_agent)
        if up_at < 99:
            send(client, "mine", "true", tmp_path, {}, {})
        else:
            with pytest.raises(RunError, match=r"dashboard_agent\.log .*ray start --dashboard-"):
                send(client, "mine", "true", tmp_path, {}, {})
        assert client.tries == tries
        assert capsys.readouterr().out.count("waiting, at most two minutes") == (tries > 1)
    client = Client(99, "Permission denied")
    with pytest.raises(RunError, match="Permission denied"):
        send(client, "mine", "true", tmp_path, {}, {})
    assert client.tries == 1


LOST = (
    r"\(reset by peer\); if the cluster's head lives, the job goes on: ray --address a; if it does "
    r"not, .* with the same run_dir$"
)


def test_a_server_that_is_lost_is_told_with_the_command_that_follows_the_job_later(monkeypatch):
    class Lost:
        def tail_job_logs(self, name):
            raise ConnectionError("reset by peer")

    monkeypatch.setattr(server, "RECONNECT_SECONDS", 0.0)
    with pytest.raises(RunError, match=LOST):
        follow(Lost(), "mine", str, "ray --address a")
