"""What has to be known beside weights to restore images with them: stored in the file, or found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from torch import nn

from ..archs import build_network
from ..archs.weights import DESCRIPTION_ENTRY, bare_weights, load_weights, read_checkpoint
from ..config import Options, load_options
from ..data.transforms import Color
from ..plugins import import_plugins
from ..registry import NETWORKS, UnknownTypeError
from .recognise import CannotTellError, recognise

ENTRY = DESCRIPTION_ENTRY


class UnknownNetworkError(ValueError):
    """It cannot be found out which network weights belong to; the message says what helps."""


@dataclass(frozen=True)
class Description:
    """A network, and how images are given to it.

    Attributes:
        network: type and arguments, as ``network_g`` has them.
        window_size: ``val.window_size``.
        color: which grey a network of one channel was trained on, as ``datasets.train.color``.
        normalised: trained on images less a mean, or over a deviation.
        plugins: modules that the option file imports.
        purpose: what the network was trained for, where it does not restore images: the ``model_type``.
        origin: where this was found, in words.
    """

    network: Mapping[str, Any]
    window_size: int | None = None
    color: Color | None = None
    normalised: bool = False
    plugins: Sequence[str] = ()
    purpose: str = ""
    origin: str = ""

    @classmethod
    def of_options(cls, options: Options, network: str = "network_g") -> Description:
        """Describe one of an option file's networks."""
        spec, data = getattr(options, network), options.datasets
        trained_on = data.train or next(iter({**data.evaluation("val"), **data.evaluation("test")}.values()))
        color = getattr(trained_on, "color", None)
        return cls(
            {"type": spec.type, **spec.kwargs},
            getattr(options.val, "window_size", None),
            color if color in get_args(Color) else None,
            any(getattr(trained_on, key, None) is not None for key in ("mean", "std")),
            list(options.plugins),
            "" if options.restores_images else options.model_type,
        )

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any], weights: Path) -> Description:
        """Return what :meth:`entry` gave.

        Raises:
            UnknownNetworkError: the entry is not one of ours.
        """
        try:
            described = cls(**{**entry, "origin": f"{weights} describes its network"})
            if not all(isinstance(name, str) for name in (described.network["type"], *described.plugins)):
                raise TypeError("a name is no text")
        except (TypeError, KeyError) as error:
            raise UnknownNetworkError(
                f"{weights}: its entry {ENTRY!r} cannot be read ({error}); name the option file with --opt"
            ) from error
        return described

    def entry(self) -> dict[str, Any]:
        """Return this as plain values, for :data:`ENTRY` of a checkpoint."""
        return {key: value for key, value in asdict(self).items() if key != "origin"}


def describe(
    weights: Path, option_file: Path | None = None, plugins: Sequence[str] = (), *, restoring: bool = True
) -> Description:
    """Find out which network ``weights`` belong to.

    By the option file that is named; else by what the file itself says; else by the option file of the run
    that it lies in; else by its keys and shapes. Weights never cause an import: a plug-in's network is found
    where an option file, or ``plugins``, names the module.

    Args:
        weights: a checkpoint file.
        option_file: whose ``network_g`` it is.
        plugins: modules to import.
        restoring: refuse networks that restore no images.

    Raises:
        UnknownNetworkError: nothing tells.
        OptionError: the option file is wrong.
        WeightsFileError: the file cannot be read as weights.
        PluginError: a module cannot be imported.
    """
    described = _described(weights, option_file, plugins)
    if restoring and described.purpose:
        raise UnknownNetworkError(
            f"{weights}: {described.network['type']} was trained with model_type: {described.purpose}, which "
            "restores no images; test.py scores such networks"
        )
    return described


def _described(weights: Path, option_file: Path | None, plugins: Sequence[str]) -> Description:
    import_plugins(plugins)
    if option_file is not None:
        return _of_file(option_file)
    content = read_checkpoint(weights)
    beside = _option_file_of_run(weights)
    if isinstance(entry := content.get(ENTRY), Mapping):
        described = Description.of_entry(entry, weights)
        if not described.plugins or _is_known(described.network["type"]) or beside is None:
            return described
    if beside is not None:
        return _of_file(beside)
    return _recognised(content, weights)


def open_network(weights: Path, description: Description) -> nn.Module:
    """Build the described network with its averaged weights, where there are any, in eval mode, on the CPU.

    Raises:
        UnknownNetworkError: there is no such network, or it does not take these arguments.
        WeightsError: the weights do not fit it.
        ValueError: it was trained on images that are prepared in a way that is not supported.
    """
    name = description.network["type"]
    if description.normalised:
        raise ValueError(f"{weights}: trained with mean or std in its data set, which is not supported here")
    try:
        network = build_network(description.network)
    except UnknownTypeError as error:
        modules = " ".join(description.plugins)
        hint = f"name its module: --plugins {modules}" if modules else "name its module with --plugins"
        raise UnknownNetworkError(f"{weights}: {error}; if a plug-in has it, {hint}") from error
    except Exception as error:  # whatever a constructor may raise
        raise UnknownNetworkError(
            f"{weights}: {name} does not take the arguments given ({type(error).__name__}: {error});"
            f" {description.origin}"
        ) from error
    load_weights(network, weights)
    return network.eval()


def _is_known(name: str) -> bool:
    try:
        NETWORKS.find(name)
    except UnknownTypeError:
        return False
    return True


def _of_file(option_file: Path) -> Description:
    # Where a run began, and where it was, no longer matters: neither folder nor file has to be there.
    options = load_options(option_file, ["path=~"], phases=())
    described = asdict(Description.of_options(options))
    return Description(**{**described, "origin": f"{option_file} describes the network"})


def _option_file_of_run(weights: Path) -> Path | None:
    """Return ``experiments/NAME/*.yml`` for ``experiments/NAME/models/x.pth``, if there is one such file."""
    folder = weights.resolve().parent
    files = list(folder.parent.glob("*.yml")) if folder.name == "models" else []
    return files[0] if len(files) == 1 else None


def _recognised(content: Mapping[str, Any], weights: Path) -> Description:
    by_opt = "name an option file with its network_g and scale: --opt FILE (options/ has the published ones)"
    state = bare_weights(content, weights)
    try:
        network = recognise({key: tuple(value.shape) for key, value in state.items()})
    except CannotTellError as error:
        raise UnknownNetworkError(f"{weights}: its shapes do not tell {error}; {by_opt}") from error
    if network is None:
        raise UnknownNetworkError(
            f"{weights}: neither describes its network nor is recognised as a published EDT, EMT, GRL, "
            f"Restormer or SwinIR; {by_opt}"
        )
    return Description(network, origin=f"{weights} is recognised by its keys and shapes")
