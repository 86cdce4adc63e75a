"""Write a network to a file that other programs open: safetensors, ONNX, or torch.export.

    python scripts/export.py --weights net_g_latest.pth --to onnx --out network.onnx

Weights are the files that infer.py takes, and averaged ones are used where there are any. Before a program is
written, it is run, by onnxruntime for ONNX, and its results are compared with the network's own. Recording
takes minutes for large networks. docs/exporting.md has what works for which network.
"""

from __future__ import annotations

from collections.abc import Sequence

from _command import CommandError, parser, positive, run

from basicsr_ext.config import OptionError
from basicsr_ext.files import user_path, write_atomically
from basicsr_ext.plugins import PluginError


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    add = command.add_argument
    add("--weights", required=True, type=user_path, metavar="FILE", help="checkpoint, ours or published")
    add("--to", required=True, choices=["safetensors", "onnx", "torch_export"], help="kind of file")
    add("--out", required=True, type=user_path, metavar="FILE", help="file to write")
    add("--opt", type=user_path, metavar="FILE", help="option file, for weights that do not tell")
    add("--plugins", nargs="+", default=[], metavar="MODULE", help="modules with the network's class")
    add("--task", metavar="NAME", help="of weights for several tasks (EDT), such as sr_x4")
    add(
        "--size",
        nargs="+",
        type=positive,
        metavar="N",
        help="height and width (or one side) of a program for this size only; default: any size if possible",
    )
    add("--uint8", action="store_true", help="ONNX: 8-bit images (N, H, W, C) in and out")
    add("--overwrite", action="store_true", help="replace an existing file")
    options = command.parse_args(arguments)
    if options.size and len(options.size) > 2:
        command.error("--size: expected one side, or height and width")
    if options.uint8 and options.to != "onnx":
        command.error("--uint8: only for --to onnx")
    if options.size and options.to == "safetensors":
        command.error("--size: safetensors hold weights, which have no size; leave it out")
    if options.out.exists() and not options.overwrite:
        raise CommandError(f"{options.out} exists; --overwrite replaces it")

    from basicsr_ext.inference.description import describe, open_network
    from basicsr_ext.inference.export import ExportError, Subject, to_onnx, to_safetensors, to_torch_export

    size = None if options.size is None else (options.size[0], options.size[-1])
    try:
        description = describe(options.weights, options.opt, options.plugins)
        network = open_network(options.weights, description)
        print(f"{description.network['type']}: {description.origin}", flush=True)
        if options.to == "safetensors":
            made = to_safetensors(network, description)
        elif options.to == "onnx":
            made = to_onnx(Subject.of(network, description, options.task), size, options.uint8)
        else:
            made = to_torch_export(Subject.of(network, description, options.task), size)
    except (OptionError, PluginError, ExportError) as error:
        raise CommandError(str(error)) from error
    write_atomically(options.out, made.content)
    print("\n".join([f"{options.out}: {len(made.content) / 1e6:.1f} MB", *made.notes]))
    return []


if __name__ == "__main__":
    raise SystemExit(run(main))
