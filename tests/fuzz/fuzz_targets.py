"""What reads files of others, and what it may do with damaged ones: succeed, or refuse in words.

Each target has sound (and some malicious) seeds; :func:`mutated` damages them. Needs no pytest.
"""

from __future__ import annotations

import base64
import faulthandler
import io
import json
import os
import pickle
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from basicsr_ext import load_weights
from basicsr_ext.archs.weights import WeightsError, WeightsFileError, read_checkpoint
from basicsr_ext.config import OptionError, Options, load_options
from basicsr_ext.data.images import ImageError, decode_image, image_size
from basicsr_ext.data.opening import open_source, select
from basicsr_ext.data.sources import FileSource
from basicsr_ext.engine.checkpoint import Checkpointer, CheckpointError

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20
"""An example that takes longer hangs."""
_FORBIDDEN = {
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"),
    *("socket.connect", "pickle.find_class"),
}


@dataclass(frozen=True)
class Target:
    """A reader of files.

    Args:
        seeds: contents to damage.
        check: reads the damaged content; returns ``"accepted"`` or ``"refused"`` and raises for anything
            that is neither.
    """

    seeds: tuple[bytes, ...]
    check: Callable[[bytes], str]

    def run(self, data: bytes) -> str:
        """Check one example under guard: no code of the file may run, and it must end.

        Raises:
            AssertionError: code ran, or the example took too long.
            Exception: what the reader should not have raised.
        """
        with _guarded():
            return self.check(data)


_guarding = False
_ran: list[str] = []


def _audit(event: str, arguments: tuple) -> None:
    if _guarding and event in _FORBIDDEN:
        _ran.append(f"{event}{arguments!r}"[:200])


sys.addaudithook(_audit)


@contextmanager
def _guarded() -> Iterator[None]:
    global _guarding

    def too_long(*_: object) -> None:
        raise AssertionError(f"no end after {SECONDS} s")

    _ran.clear()
    former = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    # Compiled code that hangs never comes back to let Python's handler run.
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
    _guarding = True
    try:
        yield
    finally:
        _guarding = False
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, former)
    assert not _ran, f"reading the file did {_ran}"


_INTERESTING = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\n",
    b" ",
    b"(",
    b"99999",
]


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Draw one of ``seeds`` with a few bits flipped and pieces dropped, doubled, overwritten or inserted."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        end = min(start + draw(st.sampled_from([1, 1, 2, 4, 16, 200])), len(data))
        kind = draw(st.sampled_from(["flip", "cut", "drop", "double", "overwrite", "insert", "splice"]))
        if kind == "flip" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[start:]
        elif kind == "drop":
            del data[start:end]
        elif kind == "double":
            data[end:end] = data[start:end]
        elif kind == "overwrite":
            data[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
        elif kind == "insert":
            data[start:start] = draw(st.sampled_from(_INTERESTING) | st.binary(max_size=8))
        elif kind == "splice":
            other = draw(st.sampled_from(seeds))
            data[start:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)


def _refused(error: Exception, beginning: str) -> str:
    """Make sure that a refusal says what it is about."""
    if not str(error) or not str(error).startswith(beginning):
        raise AssertionError(f"the message does not begin with {beginning!r}: {error}") from error
    return "refused"


# --- weights ---------------------------------------------------------------------------------------


class _Exploit:
    def __reduce__(self) -> tuple:
        return os.system, ("exit 7",)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 3, 1))


def _torch_bytes(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _unpacked(data: bytes) -> bytes:
    """Return a torch file's inner pickle alone, for mutations that no checksum of the archive sees."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _repacked(inner: bytes) -> bytes:
    """Put a pickle into a sound torch file in the place of its own."""
    archive = zipfile.ZipFile(io.BytesIO(_torch_bytes(_CONTENT)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name in archive.namelist():
            packed.writestr(name, inner if name.endswith("data.pkl") else archive.read(name))
    return buffer.getvalue()


_CONTENT = {"params": _network().state_dict(), "epoch": 3}
_EVIL = _torch_bytes({"params": _Exploit()})


def _check_weights(data: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        file.write(data)
        file.flush()
        try:
            content = read_checkpoint(file.name)
        except WeightsFileError as error:
            return _refused(error, f"{file.name}: ")
        try:
            load_weights(_network(), content)
        except (WeightsFileError, WeightsError) as error:
            return _refused(error, "the given weights: ")
    return "accepted"


# --- checkpoints of a run --------------------------------------------------------------------------

_FILES = ("models/net_g_20.pth", "training_states/20.state", "training_states/20.json")


def _save_run(folder: Path) -> None:
    checkpointer = Checkpointer(folder)
    for iteration in (10, 20):
        networks = {"net_g": {"params": _network().state_dict()}}
        checkpointer.save(iteration, networks, {"best": {}, "random": [torch.get_rng_state()]})
        checkpointer.finish()


def _run_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _save_run(Path(folder))
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in _below(Path(folder))}


def _below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


_RUN = _run_files()


def _check_run(name: str) -> Callable[[bytes], str]:
    def check(data: bytes) -> str:
        with tempfile.TemporaryDirectory() as folder:
            for file, content in _RUN.items():
                path = Path(folder, file)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data if file == name else content)
            checkpointer = Checkpointer(Path(folder))
            try:
                loaded = checkpointer.load(20)
            except CheckpointError as error:
                former, warnings = checkpointer.newest()
                if former is None or former.iteration != 10 or len(warnings) != 1:
                    raise AssertionError("did not fall back to the checkpoint before") from error
                return _refused(error, folder)
            assert list(loaded.networks) == ["net_g"], "accepted without its network"
            assert loaded.state["iter"] == loaded.iteration == 20
            return "accepted"

    return check


def _check_forged_run(data: bytes) -> str:
    """Read a training state whose checksum is right, whoever wrote it."""
    with tempfile.TemporaryDirectory() as folder:
        for file, content in _RUN.items():
            Path(folder, file).parent.mkdir(exist_ok=True)
            Path(folder, file).write_bytes(content)
        Path(folder, _FILES[1]).write_bytes(data)
        manifest = json.loads(_RUN[_FILES[2]])
        manifest["sha256"][_FILES[1]] = sha256(data).hexdigest()
        Path(folder, _FILES[2]).write_text(json.dumps(manifest))
        try:
            Checkpointer(Path(folder)).load(20)
        except CheckpointError as error:
            return _refused(error, folder)
    return "accepted"


# --- images, lists, overrides ----------------------------------------------------------------------


def _image_seeds(suffix: str, *parameters: int) -> tuple[bytes, ...]:
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8), (20, 16))
    pictures = [smooth, smooth[..., 0]]
    if suffix in (".png", ".tif"):
        pictures += [smooth.astype(np.uint16) * 257, np.dstack([smooth, smooth[..., 0]])]
    return tuple(cv2.imencode(suffix, picture, parameters)[1].tobytes() for picture in pictures)


def _check_image(suffix: str) -> Callable[[bytes], str]:
    def check(data: bytes) -> str:
        with tempfile.NamedTemporaryFile(suffix=suffix) as file:
            file.write(data)
            file.flush()
            try:
                assert min(image_size(file.name)) >= 0
            except ImageError as error:
                _refused(error, f"{file.name}: ")
        try:
            image = decode_image(data, "the image")
        except ImageError as error:
            return _refused(error, "the image: ")
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image.dtype in (np.uint8, np.uint16)
        return "accepted"

    return check


_NAMES = ("0001", "0002", "folder/0003")
_META_INFO = b"0001.png (480,320,3)\n0002.png (480,321,3)\nfolder/0003.png (12,13,3)\n"
_LMDB_META_INFO = b"0001.png (480,320,3) 1\n0002.png (480,321,3) 1\nfolder/0003.png (12,13,3) 1\n"


def _check_meta_info(data: bytes) -> str:
    source = FileSource("images", tuple(f"{name}.png" for name in _NAMES))
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            chosen = select(source, file.name, "meta_info_file")
        except ValueError as error:
            return _refused(error, f"meta_info_file: {file.name} ")
    assert set(chosen.names) <= set(_NAMES)
    return "accepted"


def _check_lmdb_meta_info(data: bytes) -> str:
    with tempfile.TemporaryDirectory(suffix=".lmdb") as folder:
        Path(folder, "meta_info.txt").write_bytes(data)
        try:
            source = open_source(folder, "dataroot_gt")
        except ValueError as error:
            return _refused(error, f"dataroot_gt: {folder}")
        assert len(source) > 0
        assert all(min(source.size(index)) >= 0 for index in range(len(source)))
        return "accepted"


_QUICKSTART = ROOT / "options/quickstart.yml"
_OPTION_FILES = (
    _QUICKSTART.read_bytes(),
    (ROOT / "options/restormer_denoise_real.yml").read_bytes(),
    b"name: !!python/object/apply:os.system ['exit 7']",
    b"a: &a [1]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 122)),
    b"[" * 100_000,
)
_OVERRIDES = (
    b"train:total_iter=100",
    b"datasets:train:stages=[{iters: 20, gt_size: 32, batch_size_per_gpu: 4}]",
    b"train:optim_g={type: Adam, lr: 2e-4, betas: [0.9, 0.99]}",
    b"val:metrics:psnr:crop_border=2",
    b"network_g:depths=[2, 2]",
    b"train:scheduler:milestones=[1, 2, 3]",
    b"name=!!python/object/apply:os.system ['exit 7']",
    b"name=&a [*a, *a]",
)


def _check_option_file(data: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".yml") as file:
        Path(file.name).write_bytes(data)
        return _check_options(file.name)


def _check_override(data: bytes) -> str:
    return _check_options(_QUICKSTART, data.decode("utf-8", "surrogateescape"))


def _check_options(file: str | Path, *overrides: str) -> str:
    try:
        options = load_options(file, overrides, phases=())
    except OptionError as error:
        lines = str(error).splitlines()
        if len(lines) != len(error.problems) or not all(
            ": found " in line and line.isprintable() for line in lines
        ):
            raise AssertionError("not one line of plain text a problem") from error
        return _refused(error, "")
    assert isinstance(options, Options)
    return "accepted"


_TORCH = (
    _torch_bytes(_CONTENT),
    _torch_bytes(_network().state_dict(), _use_new_zipfile_serialization=False),
    _EVIL,
    _torch_bytes({"params": _Exploit()}, _use_new_zipfile_serialization=False),
    *(pickle.dumps(_Exploit(), protocol) for protocol in (0, 2, 4)),
)
_PICKLES = (_unpacked(_TORCH[0]), _unpacked(_EVIL))

TARGETS: dict[str, Target] = {
    "weights": Target(_TORCH, _check_weights),
    "weights, inner pickle": Target(_PICKLES, lambda data: _check_weights(_repacked(data))),
    "checkpoint, network": Target((_RUN[_FILES[0]], _EVIL), _check_run(_FILES[0])),
    "checkpoint, state": Target((_RUN[_FILES[1]], _EVIL), _check_run(_FILES[1])),
    "checkpoint, manifest": Target((_RUN[_FILES[2]], b"[" * 100_000), _check_run(_FILES[2])),
    "checkpoint, forged": Target((*_TORCH, _RUN[_FILES[1]]), _check_forged_run),
    "image, png": Target(_image_seeds(".png"), _check_image(".png")),
    "image, jpeg": Target(_image_seeds(".jpg"), _check_image(".jpg")),
    "image, progressive jpeg": Target(
        _image_seeds(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), _check_image(".jpg")
    ),
    "image, tiff": Target(_image_seeds(".tif"), _check_image(".tif")),
    "image, webp": Target(_image_seeds(".webp"), _check_image(".webp")),
    "image, bmp": Target(_image_seeds(".bmp"), _check_image(".bmp")),
    "meta-info file": Target((_META_INFO,), _check_meta_info),
    "LMDB meta-info": Target((_LMDB_META_INFO, b"a" + b" " * 100_000), _check_lmdb_meta_info),
    "option file": Target(_OPTION_FILES, _check_option_file),
    "override": Target(_OVERRIDES, _check_override),
}


def as_text(data: bytes) -> str:
    """Return an example so that it can be pasted into a test."""
    return base64.b85encode(data).decode()
