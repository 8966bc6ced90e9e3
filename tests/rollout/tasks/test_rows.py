"""Rows of files, folders and the hub.

Tests of the hub put a loader of their own in the package's place; the last ones run the real one,
where it is installed, on local folders and against a hub on this machine.
"""

import gzip
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch.models.warmstart import build_tokenizer
from rollout.tasks.dataset import DatasetTask
from tests.places import PROJECT

ROWS = [
    {"question": "a1 b+2", "answer": "1 + 2 is\n#### 3", "kind": "sums", "number": 3},
    {"question": "a1 b*4", "answer": "one by four\n#### 4", "kind": "products", "number": 4.5},
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def rows(monkeypatch):
    """Puts a loader of the given rows in the place of the package; returns its calls."""

    def install(found):
        calls = []

        def load_dataset(path, name, *, split, revision):
            calls.append((path, name, split, revision))
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        return calls

    return install


def test_rows_become_prompts(rows, tokenizer):
    calls = rows(ROWS)
    task = DatasetTask(
        path="owner/name",
        subset="main",
        hub_split="test",
        revision="abc",
        extract="after:####",
        source="kind",
    )
    prompts = task.prompts(tokenizer)
    assert calls == [("owner/name", "main", "test", "abc")]
    assert [(p.text, p.answer, p.source) for p in prompts] == [
        ("a1 b+2", "3", "sums"),
        ("a1 b*4", "4", "products"),
    ]


def test_columns_instruction_and_source_are_settings(rows, tokenizer):
    rows(ROWS)
    task = DatasetTask(path="owner/name", answer="number", template="{{prompt}}\nb2", chat=False)
    first, second = task.prompts(tokenizer)
    assert (first.text, first.answer, first.source) == ("a1 b+2\nb2", "3", "owner/name")
    assert second.answer == "4.5"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "problem"}, r"owner/name:train:0 has no column 'problem', which task.prompt"),
        ({"extract": "after:A:"}, r"owner/name:train:0 has no answer for task.extract = after:A:"),
    ],
)
def test_settings_that_do_not_fit_are_refused(rows, tokenizer, settings, message):
    rows(ROWS)
    with pytest.raises(ValueError, match=message):
        DatasetTask(path="owner/name", **settings).prompts(tokenizer)


def test_what_cannot_be_loaded_is_one_sentence(rows, tokenizer):
    rows(FileNotFoundError("no such\ndata set"))
    with pytest.raises(ValueError, match=r"^task\.path cannot be loaded .*no such data set"):
        DatasetTask(path="owner/name").prompts(tokenizer)


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch, tokenizer):
    # None makes an import fail as if the package were not there.
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"^task\.path is no regular file here.*\.\[hub\]"):
        DatasetTask(path="owner/name").prompts(tokenizer)


@pytest.mark.parametrize(
    "content",
    [
        {"question": "a1 b+2", "answer": ["3", "3.0"]},
        {"messages": [{"role": "user", "content": "a1 b+2"}], "answer": ["3", "3.0"]},
        [{"question": "a1 b+2", "answer": ["3", "3.0"]}],
        {"version": "1", "tags": ["x"], "rows": [{"question": "a1 b+2", "answer": ["3", "3.0"]}]},
    ],
)
def test_a_json_file_holds_one_object_or_a_list_of_them(tmp_path, tokenizer, content):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content, indent=1))
    (found,) = DatasetTask(path=str(path)).prompts(tokenizer)
    assert (found.text, found.answer) == ("a1 b+2", '["3", "3.0"]')


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl.gz", b'{"prompt": "a1 b+2", "answer": "3"}\n'),
        ("d.json.gz", b'[{"prompt": "a1 b+2", "answer": "3"}]'),
        ("d.csv.gz", b"prompt,answer\na1 b+2,3\n"),
        ("d.tsv.GZ", b"prompt\tanswer\na1 b+2\t3\n"),
    ],
)
def test_packed_files_are_read_as_what_is_in_them(tmp_path, tokenizer, name, content):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content))
    (prompt,) = DatasetTask(path=str(path)).prompts(tokenizer)
    assert (prompt.text, prompt.answer) == ("a1 b+2", "3")
    for damaged in (path.read_bytes()[:-9], content):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"^{path} is not whole \(.*pack it with gzip anew$"):
            DatasetTask(path=str(path)).prompts(tokenizer)


def test_a_pattern_names_several_files(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-2.jsonl").write_text('{"prompt": "a1 b+2", "answer": "3"}\n')
    (tmp_path / "data" / "train-1.csv").write_text("prompt,answer\na1 b+3,4\n")
    task = DatasetTask(path="data/train-*")
    assert [(p.text, p.answer) for p in task.prompts(tokenizer)] == [
        ("a1 b+3", "4"),
        ("a1 b+2", "3"),
    ]
    # A file that is called so is no pattern.
    (tmp_path / "data" / "train-*").write_text('{"prompt": "a1 b+4", "answer": "5"}\n')
    assert [p.answer for p in task.prompts(tokenizer)] == ["5"]
    with pytest.raises(ValueError, match=r"^task\.path cannot be read .*, got 'data/test-\*'$"):
        DatasetTask(path="data/test-*").prompts(tokenizer)


def test_a_fault_in_a_json_list_is_told_with_its_line(tmp_path, tokenizer):
    path = tmp_path / "mine.json"
    path.write_text('\ufeff[\n {"prompt": "a", "answer": 1},\n {"prompt": "b" "answer": 2}\n]')
    with pytest.raises(ValueError, match=r"mine\.json is not JSON \(Expecting .* line 3 column"):
        DatasetTask(path=str(path)).prompts(tokenizer)
    path.write_bytes('[\n{"prompt": "caf\xe9", "answer": 1}]'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"mine\.json:2 is not UTF-8 text; .*, got b'{"):
        DatasetTask(path=str(path)).prompts(tokenizer)


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json", "mine.csv"])
def test_bytes_that_are_no_text_are_refused(tmp_path, tokenizer, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(b'{"prompt": "a", "answer": 1}\n', mtime=0))
    message = r"is not UTF-8 text; convert the file, or unpack it, got b'\\x1f"
    with pytest.raises(ValueError, match=message):
        DatasetTask(path=str(path)).prompts(tokenizer)


def test_a_csv_that_names_a_column_twice_is_refused(tmp_path, tokenizer):
    path = tmp_path / "mine.csv"
    path.write_text("prompt,prompt,answer,\nlong,short,4,\n")
    with pytest.raises(ValueError, match=r"mine\.csv:1 must name each column once"):
        DatasetTask(path=str(path)).prompts(tokenizer)
    path.write_text("prompt,answer,,\nshort,4,,\n")
    assert [p.text for p in DatasetTask(path=str(path)).prompts(tokenizer)] == ["short"]


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"level": 3}, ["b"]),
        ({"level": [3, 4.5]}, ["b", "c"]),
        ({"level": "3"}, ["b"]),
        ({"level": {"max": 3}}, ["b"]),
        ({"easy": True}, ["b", "c"]),
        ({"easy": False}, ["a"]),
    ],
)
def test_texts_of_csv_are_filtered_as_the_numbers_they_are(tmp_path, tokenizer, where, kept):
    path = tmp_path / "mine.csv"
    path.write_text("prompt,answer,level,easy\na,1,hard,False\nb,1,3,true\nc,1,4.50,True\n")
    found = DatasetTask(path=str(path), where=where).prompts(tokenizer)
    assert [prompt.text for prompt in found] == kept


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('prompt,answer\nq1,"4\nq2,5\nq3,6\n', 2),
        ('prompt,answer\nq1,4\n"q2,5\nq3,6\n', 3),
        ('prompt,answer\nq1,4\n"q2" or so,5\nq3,6\n', 3),
        ('prompt,"answer\nq1,4\n', 1),
    ],
)
def test_a_quote_that_nothing_closes_is_named_and_takes_no_rows(tmp_path, tokenizer, text, line):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"mine\.csv:{line} is not CSV .*; close the quotes"):
        DatasetTask(path=str(path)).prompts(tokenizer)


def test_quotes_of_csv_hold_line_breaks_commas_and_quotes(tmp_path, tokenizer):
    path = tmp_path / "mine.csv"
    path.write_text('prompt,answer\n"a, ""b""\nc",4\n6" pipe,5\n')
    found = DatasetTask(path=str(path)).prompts(tokenizer)
    assert [(p.text, p.answer) for p in found] == [('a, "b"\nc', "4"), ('6" pipe', "5")]


real = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="datasets is not installed (extra hub)"
)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CARD = """---
configs:
- config_name: main
  data_files:
  - split: test
    path: data/test-*
---
"""
FILES = {"README.md": CARD.encode(), "data/test-00000.jsonl": LINES.encode()}
COMMIT = "a" * 40
PROGRAM = """
import json, sys
from launch.models.warmstart import build_tokenizer
from rollout.tasks.dataset import DatasetTask
try:
    found = DatasetTask(**json.loads(sys.argv[1])).prompts(build_tokenizer())
    print("FOUND", json.dumps([[p.text, p.answer, p.source] for p in found]))
except ValueError as error:
    print("REFUSED", error)
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as one public data set needs."""

    def do_GET(self):
        path = self.path.split("?")[0]
        answer: Any = {}
        if path.startswith("/api/datasets/owner/name/tree/"):
            inside = path.endswith("/data")
            answer = [
                {"type": "file", "oid": self._oid(name), "size": len(FILES[name]), "path": name}
                for name in FILES
                if name.startswith("data/") == inside
            ]
            if not inside:
                answer.append({"type": "directory", "oid": "d" * 40, "size": 0, "path": "data"})
        elif path.startswith("/api/datasets/owner/name"):
            siblings = [{"rfilename": name} for name in FILES]
            answer = {"id": "owner/name", "sha": COMMIT, "private": False, "siblings": siblings}
        elif path.startswith("/datasets/owner/name/resolve/"):
            name = path.split("/resolve/")[1].split("/", 1)[1]
            if name in FILES:
                return self._send(FILES[name], 200, {"ETag": f'"{self._oid(name)}"'})
            return self._send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        else:
            return self._send(b"", 404, {"X-Error-Code": "RepoNotFound"})
        return self._send(json.dumps(answer).encode(), 200, {"Content-Type": "application/json"})

    do_HEAD = do_GET  # noqa: N815

    def _oid(self, name):
        return hashlib.sha1(FILES[name]).hexdigest()

    def _send(self, body, code, headers):
        self.send_response(code)
        for key, value in {"Content-Length": len(body), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        """Keep quiet."""


def load(home: Path, endpoint: str = "http://127.0.0.1:9", **settings) -> str:
    """Load in a process of its own, since the package reads its environment once."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("HF_") and not key.lower().endswith("_proxy")
    }
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *sys.path[1:]])
    command = [sys.executable, "-c", PROGRAM, json.dumps(settings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@real
def test_the_real_loader_reads_a_local_folder_and_runs_none_of_its_code(tmp_path):
    folder = tmp_path / "questions"
    folder.mkdir()
    (folder / "test.jsonl").write_text(LINES)
    found = load(
        tmp_path / "home", path=str(folder), hub_split="test", answer="number", source="kind"
    )
    assert found == ('FOUND [["a1 b+2", "3.0", "sums"], ["a1 b*4", "4.5", "products"]]')
    (folder / "questions.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused = load(tmp_path / "home", path=str(folder), hub_split="test")
    assert refused.startswith("REFUSED task.path cannot be loaded (RuntimeError: Dataset script")
    assert not (tmp_path / "ran").exists()


@real
def test_the_real_loader_reads_a_hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        settings = {
            "subset": "main",
            "extract": "after:####",
            "revision": COMMIT,
            "hub_split": "test",
        }
        found = load(tmp_path / "home", endpoint, path="owner/name", **settings)
        assert found == 'FOUND [["a1 b+2", "3", "owner/name"], ["a1 b*4", "4", "owner/name"]]'
        refused = load(tmp_path / "home", endpoint, path="owner/none")
        assert refused.startswith("REFUSED task.path cannot be loaded (")
    finally:
        server.shutdown()
        server.server_close()
