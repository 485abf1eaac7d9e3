"""The command ``panet``: its sub-commands and their arguments.

This module stands outside the package because importing ``panet`` registers it with detectron2 and
so imports PyTorch, which takes seconds. Help and wrong arguments do not wait for that.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import shtab

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001

DETECTRON2 = (
    "sal-detectron2==0.7.2"
    " --hash=sha256:491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561\n"
)
"""The requirement of :func:`install_detectron2`: detectron2's Python code on PyPI."""

_EXIT_STATUS = """\
exit status:
  0    done
  1    `check` found errors, or `predict` could not read an input
  2    wrong arguments or input; one line on standard error says what to do
  130  interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. ``module`` names the module of ``panet.cli`` to run."""
    parser = argparse.ArgumentParser(
        prog="panet",
        description="PANet for detectron2: train, evaluate and apply path aggregation networks.",
        epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shtab.add_argument_to(parser, ["--print-completion"])
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        _add_train,
        _add_eval,
        _add_predict,
        _add_zoo,
        _add_report,
        _add_check,
        _add_convert_data,
        _add_convert_weights,
        _add_analyze_levels,
        _add_proposals,
        _add_demo,
        _add_install_detectron2,
    ):
        add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those after the program's name; by default the ones of this process.

    Returns:
        The exit status.
    """
    args = build_parser().parse_args(arguments)
    if args.module is None:
        return install_detectron2()
    if not args.debug and not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of other packages, also in further processes
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
    try:
        errors = importlib.import_module("panet.utils.errors")
    except ModuleNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with errors.exit_on_user_error():
            return importlib.import_module(f"panet.cli.{args.module}").main(args) or 0
    except SystemExit as end:
        if end.code == 130 and args.resumes:
            print("Run the same command to resume.", file=sys.stderr)
        raise


def install_detectron2() -> int:
    """Install detectron2's Python code into this environment; the exit status.

    The wheel is tagged for one version of Python because of a compiled extension, which this
    project does not need. Its Python code runs on all of them.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirement:
        requirement.write(DETECTRON2)
        requirement.flush()
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"),
            *("--target", sysconfig.get_path("purelib"), "--only-binary=:all:"),
            *("--python-version", "3.10", "--implementation", "cp", "--abi", "none"),
            *("--platform", "any", "--require-hashes", "-r", requirement.name),
        ]
        if subprocess.run(command, check=False).returncode == 0:
            return 0
    print(
        f"error: {sys.executable} could not install {DETECTRON2.split()[0]} by pip, see above.",
        file=sys.stderr,
    )
    return 2


def _add_train(commands: _Commands) -> None:
    parser = _add(
        commands,
        "train",
        "Train a model, as train_net.py does.",
        "panet train --config-file panet_R50_2x.yaml SOLVER.IMS_PER_BATCH 8 OUTPUT_DIR output/run",
    )
    _add_run(parser, "resume the run in OUTPUT_DIR", eval_only=False)


def _add_eval(commands: _Commands) -> None:
    parser = _add(
        commands,
        "eval",
        "Evaluate a model on DATASETS.TEST.",
        "panet eval --config-file panet_R50_2x.yaml MODEL.WEIGHTS output/model_final.pth",
        module="train",
    )
    _add_run(parser, "evaluate the last checkpoint in OUTPUT_DIR", eval_only=True)


def _add_run(parser: argparse.ArgumentParser, resume: str, eval_only: bool) -> None:
    _add_config_file(parser)
    parser.add_argument("--resume", action="store_true", help=resume)
    _add_processes(parser)
    parser.add_argument("--num-machines", type=_positive, default=1)
    parser.add_argument("--machine-rank", type=_natural, default=0, help="unique per machine")
    _add_trailing_opts(parser)
    parser.set_defaults(eval_only=eval_only, quiet=True)


def _add_predict(commands: _Commands) -> None:
    parser = _add(
        commands,
        "predict",
        """\
        Detect instances in images and videos and write them to a folder:

          results.json     all instances as COCO results, with file names and categories
          images.json      the images and categories they refer to, in COCO's format
          records/         the same for each image, written as soon as it is processed
          pictures/        each image or video frame with its instances drawn
          videos/          annotated videos
          unreadable.txt   the files that could not be read, and why

        The same command resumes an interrupted run, and adds new or changed images.
        """,
        "panet predict photos/ --config-file panet_R50_2x.yaml --weights model.pth --output found",
    )
    parser.usage = "panet predict [options] INPUT [INPUT ...] [--opts KEY VALUE ...]"
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="image, video, folder (recursive) or pattern"
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", metavar="NAME", help="a model of `panet zoo`, with its weights")
    model.add_argument(
        "--config-file", metavar="FILE", help="path or model zoo name of a configuration"
    )
    parser.add_argument("--weights", default="", help="default: MODEL.WEIGHTS")
    _add_path(parser, "--output", "folder to write to", required=True)
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        help="minimum score (default: 0.5); use 0.05 to compute an average precision",
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=1, help="images of similar size per batch"
    )
    parser.add_argument("--no-pictures", action="store_true", help="draw no images and videos")
    parser.add_argument("--masks", action="store_true", help="write a PNG file per instance")
    parser.add_argument("--csv", action="store_true", help="also write results.csv")
    parser.add_argument("--start-over", action="store_true", help="delete previous results first")
    parser.set_defaults(resumes=True)
    _add_processes(parser)
    _add_final_opts(parser)


def _add_zoo(commands: _Commands) -> None:
    _add(
        commands,
        "zoo",
        """\
        List the models with published weights: their AP on COCO val2017 as reported by their
        authors, the size of the weights and whether they are cached. `panet predict --model NAME`
        downloads, verifies, converts and caches them, and so does MODEL.WEIGHTS panet://NAME with
        .pth instead of .yaml.

        Without network, place a published file where `panet zoo` says, or set PANET_MODEL_ZOO to
        a folder or URL that has it under NAME, with .pth instead of .yaml.
        """,
        "panet zoo",
    )


def _add_report(commands: _Commands) -> None:
    parser = _add(
        commands,
        "report",
        """\
        Write an HTML report of a run: training curves, COCO metrics, precision-recall curves, the
        confusion matrix, the largest false negatives and highest-scoring false positives, and the
        configuration. What the run lacks is left out. The page needs no network.
        """,
        "panet report output/run",
    )
    _add_path(parser, "run_dir", "OUTPUT_DIR of the run", metavar="RUN_DIR")
    _add_path(parser, "--output", "the page (default: RUN_DIR/report.html)")
    parser.add_argument(
        "--num-examples", type=_natural, default=6, help="mistakes of each kind to draw"
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        help="minimum score in the confusion matrix and the drawings (default: 0.5)",
    )
    parser.add_argument(
        "--iou", type=float, default=0.5, help="minimum box IoU of a match in the confusion matrix"
    )
    _add_final_opts(parser)


def _add_check(commands: _Commands) -> None:
    parser = _add(
        commands,
        "check",
        """\
        Check a dataset in COCO's format and summarize it. Every image is read as in training.
        Counts, sizes and defects are printed; defects.csv, class histograms and ground-truth
        visualizations are written.

        Errors would stop training or silently corrupt it or its metrics; `panet train` refuses
        those that the JSON file shows. Everything else is a warning.
        """,
        "panet check --json train.json --images images --against val.json images",
    )
    _add_config_file(parser, required=False)
    _add_path(parser, "--json", "JSON file of the dataset", exists="file")
    _add_path(parser, "--images", "folder that file names are relative to", exists="folder")
    parser.add_argument(
        "--against",
        type=Path,
        nargs=2,
        metavar=("JSON", "IMAGES"),
        help="a second dataset, e.g. the validation set, that should share no images",
    )
    _add_path(parser, "--output-dir", default=Path("output/check"))
    parser.add_argument("--samples", type=_natural, default=16, help="visualizations per dataset")
    parser.add_argument("--processes", type=_positive, default=os.cpu_count() or 1)
    _add_trailing_opts(parser)


def _add_convert_data(commands: _Commands) -> None:
    parser = _add(
        commands,
        "convert-data",
        """\
        Convert annotations to a COCO JSON file:

        labelme   IN holds the JSON files; images are where these say, or in --images.
        voc       IN holds the XML files, with <polygon> elements or boxes only; images are in
                  --images, by default in JPEGImages beside IN.
        yolo      IN holds the label files, with polygons or boxes; images are in --images, by
                  default where "images" replaces "labels" in IN. Classes come from data.yaml.

        Sub-folders are included. File names are relative to the folder of images. Masks become
        RLE. Needs the package supervision: pip install panet[convert].
        """,
        "panet convert-data --from labelme annotations/ train.json",
    )
    parser.add_argument("--from", dest="source", required=True, choices=("labelme", "voc", "yolo"))
    _add_path(parser, "input", metavar="IN", exists="folder")
    _add_path(parser, "output", metavar="OUT.json")
    _add_path(parser, "--images", "folder of the images", exists="folder")
    _add_path(parser, "--class-file", "YOLO's data.yaml, if it is not above IN", exists="file")
    parser.add_argument(
        "--box-masks", action="store_true", help="use the box as mask where there is no polygon"
    )


def _add_convert_weights(commands: _Commands) -> None:
    parser = _add(
        commands,
        "convert-weights",
        """\
        Extract a model's weights and class names from a checkpoint, without the optimizer's
        state; with --from, convert them from another system. Nothing in the file is executed.
        A conversion names every tensor that is dropped, and is written only if the model is
        complete.
        """,
        "panet convert-weights output/model_final.pth model.safetensors\n"
        "  panet convert-weights --from mmdet faster_rcnn_r50_pafpn_1x_coco.pth pafpn.pth",
    )
    parser.add_argument("--from", dest="source", choices=("mmdet", "panet-pytorch"))
    _add_path(parser, "input", ".pth or .safetensors", metavar="IN", exists="file")
    _add_path(parser, "output", ".pth or .safetensors", metavar="OUT")
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="with --from: path or model zoo name, if the model is not a published one",
    )
    _add_final_opts(parser)


def _add_analyze_levels(commands: _Commands) -> None:
    parser = _add(
        commands,
        "analyze-levels",
        """\
        Count the levels that adaptive feature pooling takes its features from (Figure 3 of the
        paper). The boxes that a head pools are grouped by the level that FPN assigns them to.
        For each group, levels.csv and levels.png have the share of the max-fused features from
        every level. Features that are 0 on all levels are ignored; ties go to the finest level.
        With a cascade, the box head is that of the first stage.
        """,
        "panet analyze-levels --config-file panet_R50_2x.yaml MODEL.WEIGHTS model.pth",
    )
    _add_config_file(parser)
    parser.add_argument(
        "--head", choices=("box", "mask"), default="box", help="box: proposals; mask: detections"
    )
    parser.add_argument("--dataset", help="a registered dataset (default: DATASETS.TEST)")
    parser.add_argument("--max-images", type=_positive, help="stop after this many images")
    _add_path(parser, "--output-dir", default=Path("output/levels"))
    _add_trailing_opts(parser)


def _add_proposals(commands: _Commands) -> None:
    parser = _add(
        commands,
        "proposals",
        """\
        Write proposal files for whole datasets, from a ProposalNetwork or the RPN of an R-CNN:
        one file per dataset, with up to MODEL.RPN.POST_NMS_TOPK_TEST proposals per image.
        """,
        "panet proposals --config-file panet_R50_2x.yaml MODEL.WEIGHTS model.pth",
        module="write_proposals",
    )
    _add_config_file(parser)
    parser.add_argument(
        "--dataset",
        action="append",
        metavar="NAME",
        help="a registered dataset, repeatable (default: DATASETS.TRAIN and DATASETS.TEST)",
    )
    _add_path(parser, "--output-dir", default=Path("output/proposals"))
    _add_processes(parser)
    _add_trailing_opts(parser)


def _add_demo(commands: _Commands) -> None:
    parser = _add(
        commands,
        "demo",
        "Train a small PANet on the embedded dataset, evaluate it and draw its predictions. An "
        "interrupted demo resumes; a finished one is only evaluated again.",
        "panet demo --output-dir output/demo",
    )
    parser.set_defaults(resumes=True)
    _add_path(parser, "--output-dir", default=Path("output/demo"))
    parser.add_argument("--setup-seconds", type=float, default=0.0, help="for results.json")
    parser.add_argument(
        "--early-pictures-after",
        type=float,
        default=45.0,
        metavar="SECONDS",
        help="time from the start to the first predictions",
    )
    _add_trailing_opts(parser)


def _add_install_detectron2(commands: _Commands) -> None:
    _add(
        commands,
        "install-detectron2",
        "Install detectron2 into this environment: upstream's Python code as packaged on PyPI, "
        "with its hash checked. detectron2 has no release of its own there.",
        "panet install-detectron2",
        module=None,
    )


def _add(
    commands: _Commands, name: str, description: str, example: str, module: str | None = ""
) -> argparse.ArgumentParser:
    """Add a command; ``module`` is that of ``panet.cli``, by default of the same name."""
    if module == "":
        module = name.replace("-", "_")
    lines = [line.removeprefix("        ") for line in description.splitlines()]
    if len(lines) == 1:
        lines = textwrap.wrap(description, 90)
    parser = commands.add_parser(
        name,
        help=re.split(r"[.:](?:\s|$)", " ".join(description.split()))[0],
        description="\n".join(lines),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of all errors")
    parser.set_defaults(module=module, resumes=False)
    return parser


def _add_config_file(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--config-file",
        required=required,
        metavar="FILE",
        help="path or model zoo name of a configuration",
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-gpus", type=_positive, default=1, help="processes; on the CPU if there is no GPU"
    )
    parser.add_argument("--dist-url", default="auto", help="see torch.distributed")


def _add_trailing_opts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="configuration overrides, at the end",
    )


def _add_final_opts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="configuration overrides, at the end",
    )


def _add_path(
    parser: argparse.ArgumentParser, name: str, help: str = "", exists: str = "", **options: Any
) -> None:
    """Add a path, which must exist as a "file" or a "folder" if ``exists`` says so."""

    def read(text: str) -> Path:
        path = Path(text)
        if (exists == "file" and not path.is_file()) or (exists == "folder" and not path.is_dir()):
            raise argparse.ArgumentTypeError(f"there is no {exists} {text}")
        return path

    action = parser.add_argument(name, type=read, help=help or None, **options)
    completion = shtab.DIRECTORY if exists == "folder" else shtab.FILE
    action.complete = completion  # type: ignore[attr-defined]


def _positive(text: str) -> int:
    return _at_least(1, text)


def _natural(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return number


if __name__ == "__main__":
    sys.exit(main())
