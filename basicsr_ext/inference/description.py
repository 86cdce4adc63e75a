"""What has to be known beside weights to use them on pictures: stored in the file, or found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from torch import nn

from ..archs import build_network
from ..archs.weights import DESCRIPTION, bare_weights, load_weights, read_checkpoint
from ..config import OptionError, Options, load_options
from ..data.transforms import Color
from ..plugins import import_plugins
from ..registry import MODELS, UnknownTypeError
from .reading import PictureReader
from .recognise import CannotTellError, recognise


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
        notes: what that kind of training needs to know to read pictures with it, plain values.
        origin: where this was found, in words.
    """

    network: Mapping[str, Any]
    window_size: int | None = None
    color: Color | None = None
    normalised: bool = False
    plugins: Sequence[str] = ()
    purpose: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    @classmethod
    def of_options(
        cls, options: Options, network: str = "network_g", notes: Mapping[str, Any] | None = None
    ) -> Description:
        """Describe one of an option file's networks; ``notes`` are those of its kind of training."""
        spec, data = getattr(options, network), options.datasets
        trained_on = data.train or next(iter({**data.evaluation("val"), **data.evaluation("test")}.values()))
        color = getattr(trained_on, "color", None)
        return cls(
            {"type": spec.type, **spec.kwargs},
            getattr(options.val, "window_size", None),
            color if color in get_args(Color) else None,
            options.restores_images
            and any(getattr(trained_on, key, None) is not None for key in ("mean", "std")),
            list(options.plugins),
            "" if options.restores_images else options.model_type,
            notes or {},
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
                f"{weights}: its entry {DESCRIPTION!r} cannot be read ({error}); "
                "name the option file with --opt"
            ) from error
        return described

    def require_restoring(self, weights: Path) -> None:
        """Raise an :class:`UnknownNetworkError` where the network was trained for something else."""
        if self.purpose:
            raise UnknownNetworkError(
                f"{weights}: trained with model_type: {self.purpose}, which restores no images; "
                "test.py scores such networks"
            )

    def entry(self) -> dict[str, Any]:
        """Return this as plain values, for :data:`DESCRIPTION` of a checkpoint."""
        return {key: value for key, value in asdict(self).items() if key != "origin"}


def describe(weights: Path, option_file: Path | None = None, plugins: Sequence[str] = ()) -> Description:
    """Find out which network ``weights`` belong to, and what it was trained for.

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
    import_plugins(plugins)
    if option_file is not None:
        return _of_file(option_file)
    content = read_checkpoint(weights)
    beside = _option_file_of_run(weights)
    if isinstance(entry := content.get(DESCRIPTION), Mapping):
        described = Description.of_entry(entry, weights)
        if described.plugins and not plugins and beside is not None:
            # For its modules. If one is needed and cannot be imported, what it registers will be missing.
            with suppress(OptionError):
                _options(beside)
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
        raise _without_plugin(weights, description, error) from error
    except Exception as error:  # whatever a constructor may raise
        raise UnknownNetworkError(
            f"{weights}: {name} does not take the arguments given ({type(error).__name__}: {error});"
            f" {description.origin}"
        ) from error
    load_weights(network, weights)
    return network.eval()


def open_reader(weights: Path, description: Description, network: nn.Module) -> PictureReader:
    """Return what the kind of training that ``network`` is from makes of pictures.

    Raises:
        UnknownNetworkError: nothing, there is no such kind, or the file does not tell all it needs.
    """
    try:
        kind: Any = MODELS.find(description.purpose)
    except UnknownTypeError as error:
        raise _without_plugin(weights, description, error) from error
    try:
        reader = kind.reader(network, description.notes)
    except (KeyError, TypeError, ValueError) as error:
        raise UnknownNetworkError(
            f"{weights}: cannot be used as {description.purpose} ({error}); name the option file with --opt"
        ) from error
    if reader is None:
        raise UnknownNetworkError(
            f"{weights}: {description.network['type']} was trained with model_type: {description.purpose}, "
            "which neither restores images nor says anything of one; test.py scores such networks"
        )
    return reader


def _without_plugin(weights: Path, description: Description, error: UnknownTypeError) -> UnknownNetworkError:
    modules = " ".join(description.plugins)
    hint = f"name its module: --plugins {modules}" if modules else "name its module with --plugins"
    return UnknownNetworkError(f"{weights}: {error}; if a plug-in has it, {hint}")


def _of_file(option_file: Path) -> Description:
    options = _options(option_file)
    kind: Any = MODELS.find(options.model_type)
    described = Description.of_options(options, notes=kind.reading_notes(options))
    return replace(described, origin=f"{option_file} describes the network")


def _options(option_file: Path) -> Options:
    # Where a run began, and where it was, no longer matters: neither folder nor file has to be there.
    return load_options(option_file, ["path=~"], phases=())


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
