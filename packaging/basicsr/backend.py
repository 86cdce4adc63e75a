"""A build backend (PEP 517) for basicsr 1.4.2: its sources from the package index, with two lines mended.

As published, basicsr cannot be built on Python 3.13 or newer, whose ``locals()`` no longer sees what ``exec``
assigned (PEP 667). It asks for tb-nightly, which installs the same files as tensorboard: with both installed,
``tensorboard`` finds every plugin twice and refuses to start.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from pip._internal.commands import create_command
from pip._vendor.packaging.specifiers import SpecifierSet

VERSION = "1.4.2"
SHA256 = "b89b595a87ef964cda9913b4d99380ddb6554c965577c0c10cb7b78e31301e87"
MENDED_LINES = (
    ("setup.py", "version=get_version(),", f"version={VERSION!r},"),
    ("requirements.txt", "tb-nightly\n", "tensorboard\n"),
)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Build basicsr's wheel into ``wheel_directory`` and return its name."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(_published_archive())) as archive:
            archive.extractall(folder)
        sources = Path(folder, f"basicsr-{VERSION}")
        for name, published, mended in MENDED_LINES:
            text = (sources / name).read_text(encoding="utf-8")
            (sources / name).write_text(text.replace(published, mended), encoding="utf-8")
        # With isolation, pip would first install what setup.py asks for and does not use: torch with CUDA.
        build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
        subprocess.run([*build, "--wheel-dir", wheel_directory, sources], check=True)
    return f"basicsr-{VERSION}-py3-none-any.whl"


def _published_archive():
    """Return basicsr's source archive, as bytes, from the index that pip is configured for.

    ``pip download`` would run the archive's setup.py; so the parts of it that find and fetch are called.
    """
    command = create_command("download")
    options, _ = command.parse_args(["--no-binary", "basicsr"])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        found = finder.find_best_candidate("basicsr", SpecifierSet(f"=={VERSION}")).best_candidate
        if found is None:
            raise FileNotFoundError(f"pip's package index offers no source archive of basicsr {VERSION}")
        response = session.get(found.link.url_without_fragment, headers={"Accept-Encoding": "identity"})
        response.raise_for_status()
    if hashlib.sha256(response.content).hexdigest() != SHA256:
        raise ValueError(f"{found.link} is not basicsr {VERSION} as published on PyPI: its SHA-256 differs")
    return response.content
