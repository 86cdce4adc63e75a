"""scripts/download_data.py against a server on this machine."""

import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image


def red_png():
    data = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(data, "PNG")
    return data.getvalue()


PNG = red_png()


def zipped(parent, count, content=PNG):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(1, count + 1):
            archive.writestr(f"{parent}/{number:04d}.png", content)
        archive.writestr("../../escaped.png", content)
        archive.writestr("__MACOSX/._0001.png", b"")
    return data.getvalue()


def benchmarks():
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, count in (("Set5", 5), ("Set14", 14), ("B100", 100), ("Urban100", 100)):
            for number in range(count):
                for file in (f"HR/img_{number}.png", f"LR_bicubic/X2/img_{number}x2.png"):
                    member = tarfile.TarInfo(f"benchmark/{name}/{file}")
                    member.size = len(PNG)
                    archive.addfile(member, io.BytesIO(PNG))
    return data.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``files``; answers Range unless ``ranges`` is false; breaks off after ``limit`` bytes once."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.ranges, self.limit, self.requests = {}, True, None, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/some/folder"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers["Range"]
        self.server.requests.append((self.path, wanted))
        content = self.server.files.get(self.path.rpartition("/")[2])
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        limit, self.server.limit = self.server.limit, None
        self.wfile.write(content[start:][:limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def download(script, tmp_path):
    """download(server, "DIV2K_valid"): the finished process; images go below tmp_path / "data"."""

    def run(server, *arguments):
        mirror = getattr(server, "url", server)
        return script("download_data", *arguments, "--root", tmp_path / "data", "--mirror", mirror)

    return run


def test_archives_are_laid_out_and_deleted(download, server, tmp_path):
    server.files = {"DIV2K_valid_HR.zip": zipped("DIV2K_valid_HR", 100), "benchmark.tar": benchmarks()}
    result = download(server, "DIV2K_valid", "benchmarks")
    assert result.returncode == 0, result.stderr
    root = tmp_path / "data"
    found = {
        folder: len(list((root / folder / "HR").iterdir())) for folder in ("DIV2K_valid", "Set5", "B100")
    }
    assert found == {"DIV2K_valid": 100, "Set5": 5, "B100": 100}
    assert (root / "DIV2K_valid/HR/0100.png").read_bytes() == PNG
    assert not list(root.rglob("*.zip"))
    # Nothing but images of the set, and nothing elsewhere.
    assert {path.name for path in root.iterdir()} == {
        ".downloads",
        "DIV2K_valid",
        "Set5",
        "Set14",
        "B100",
        "Urban100",
    }
    assert not list(tmp_path.rglob("escaped.png"))
    assert not list(root.rglob("*x2.png"))


def test_what_is_there_is_not_downloaded_again(download, server):
    server.files = {"DIV2K_valid_HR.zip": zipped("DIV2K_valid_HR", 100)}
    assert download(server, "DIV2K_valid").returncode == 0
    server.requests.clear()
    result = download(server, "DIV2K_valid")
    assert result.returncode == 0
    assert "all images are there" in result.stdout
    assert server.requests == []


def test_a_download_goes_on_where_the_connection_broke_off(download, server):
    server.files, server.limit = {"DIV2K_valid_HR.zip": zipped("DIV2K_valid_HR", 100)}, 5000
    assert download(server, "DIV2K_valid").returncode == 0
    assert [wanted for _, wanted in server.requests] == [None, "bytes=5000-"]


def test_a_download_goes_on_in_a_later_run(download, server, tmp_path):
    content = zipped("DIV2K_valid_HR", 100)
    part = tmp_path / "data/.downloads/DIV2K_valid_HR.zip.part"
    part.parent.mkdir(parents=True)
    for have in (7000, len(content)):
        part.write_bytes(content[:have])
        server.requests.clear()
        server.files = {"DIV2K_valid_HR.zip": content}
        for path in (tmp_path / "data").glob("DIV2K_valid/HR/0001.png"):
            path.unlink()
        assert download(server, "DIV2K_valid").returncode == 0
        assert [wanted for _, wanted in server.requests] == [f"bytes={have}-"]


def test_a_server_without_ranges_is_downloaded_from_the_start(download, server, tmp_path):
    server.files, server.ranges, server.limit = (
        {"DIV2K_valid_HR.zip": zipped("DIV2K_valid_HR", 100)},
        False,
        5000,
    )
    assert download(server, "DIV2K_valid").returncode == 0
    assert len(list((tmp_path / "data/DIV2K_valid/HR").iterdir())) == 100


def test_offline_is_one_clear_line(script, tmp_path):
    result = script(
        "download_data", "DIV2K", "--root", tmp_path, "--mirror", "http://127.0.0.1:9", timeout=60
    )
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("error: http://127.0.0.1:9/DIV2K_train_HR.zip: cannot be downloaded")
    assert line.endswith("is there a network?")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "DIV2K_valid_HR.zip: the server answers 404"),
        (zipped("DIV2K_valid_HR", 99), "99 images for DIV2K_valid/HR, expected 100"),
        (zipped("DIV2K_valid_HR", 100, PNG[:-20]), "0001.png: damaged"),
        (b"no archive" * 100, "damaged"),
    ],
)
def test_wrong_content_is_one_clear_line(download, server, tmp_path, content, message):
    server.files = {"DIV2K_valid_HR.zip": content} if content else {}
    result = download(server, "DIV2K_valid")
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    # A damaged image is not left behind as if it were whole.
    if "0001.png" in message:
        assert not list(tmp_path.rglob("000*.png"))


def test_a_damaged_member_is_noticed_by_its_checksum(download, server):
    content = bytearray(zipped("DIV2K_valid_HR", 100))
    place = content.find(PNG, 3000)
    content[place + 40] ^= 1
    server.files = {"DIV2K_valid_HR.zip": bytes(content)}
    result = download(server, "DIV2K_valid")
    assert result.returncode == 1
    assert "damaged" in result.stderr
