"""Make ``pip install .`` work, for those who build on the package; commands run from the repository."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def _requirements() -> list[str]:
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    # Which pip can build basicsr depends on Python's version (packaging/basicsr); that it is needed does not.
    return [line.partition(";")[0] for line in lines if line and not line.startswith(("#", "./"))]


setup(
    name="basicsr_ext",
    version="0.1.0",
    description="Training framework for image-restoration transformers with BasicSR option files",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["basicsr_ext", "basicsr_ext.*"]),
    package_data={"basicsr_ext": ["py.typed"]},
    python_requires=">=3.10,<3.13",
    install_requires=_requirements(),
    extras_require={"safetensors": ["safetensors"]},
)
