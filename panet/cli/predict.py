"""``panet predict``: instances in images and videos."""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from threading import Event, Thread

from detectron2.config import CfgNode
from detectron2.utils import comm
from tqdm import tqdm

from panet.compat.detectron2_launch import launch
from panet.model_zoo import get_checkpoint_url
from panet.prediction import Predictor, prediction_config
from panet.prediction.annotated_video import write_annotated_videos
from panet.prediction.folder import ResultsFolder
from panet.prediction.inputs import Source, find_files, name_sources
from panet.prediction.results_file import merge
from panet.prediction.run_file import locked, start
from panet.prediction.settings import prediction_settings
from panet.prediction.worker import count_images, predict_share, unfinished_sources
from panet.utils.device import check_gpus, keep_freed_memory, limit_cpu_threads
from panet.utils.errors import exit_on_user_error


def main(args: argparse.Namespace) -> int:
    """Run the command; 1 if an input could not be read."""
    check_gpus(args.num_gpus)
    files = find_files(args.inputs, excluded=args.output)
    weights = args.weights or (get_checkpoint_url(args.model) if args.model else "")
    name = args.model or args.config_file
    cfg = prediction_config(name, weights, args.score_threshold, args.opts)
    settings = prediction_settings(cfg)
    folder = ResultsFolder(args.output, not args.no_pictures, args.masks)
    with locked(args.output):
        root = start(args.output, settings, files, args.start_over)
        sources = name_sources(files, root)
        predict(args, cfg, folder, sources)
        if folder.with_pictures:
            write_annotated_videos(sources, folder)
        summary = merge(folder, args.csv)
    print(f"instances  {summary.detections} in {summary.images} images or frames")
    print(f"results    {args.output / 'results.json'}")
    return report_unreadable(folder, sources)


def predict(
    args: argparse.Namespace, cfg: CfgNode, folder: ResultsFolder, sources: list[Source]
) -> None:
    """Predict on the images and frames that are not finished yet, in all processes."""
    folder.unreadable_list.write_text("")
    unfinished = unfinished_sources(sources, folder)
    total = count_images(sources)
    before = total - count_images(unfinished)
    counter = multiprocessing.get_context("spawn").Value("q", before)
    if unfinished:
        with progress_bar(total, before, counter):
            launch(
                predict_in_process,
                args.num_gpus,
                dist_url=args.dist_url,
                args=(cfg, folder, unfinished, args.batch_size, counter),
            )


@exit_on_user_error()
def predict_in_process(
    cfg: CfgNode,
    folder: ResultsFolder,
    sources: list[Source],
    batch_size: int,
    counter: "Synchronized[int]",
) -> None:
    end_with_parent()
    if cfg.MODEL.DEVICE == "cpu":
        limit_cpu_threads(comm.get_local_size())
        keep_freed_memory()
    predictor = Predictor(cfg)
    if comm.is_main_process():
        folder.write_categories(predictor.categories)
    predict_share(
        predictor,
        folder,
        sources,
        batch_size=batch_size,
        rank=comm.get_rank(),
        processes=comm.get_world_size(),
        counter=counter,
    )


def end_with_parent() -> None:
    """End this process if its parent, which holds the lock of the folder, is killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


@contextmanager
def progress_bar(total: int, before: int, counter: "Synchronized[int]") -> Iterator[None]:
    """Show the progress of all processes together."""
    finished = Event()
    with tqdm(total=total, initial=before, unit="image") as bar:

        def catch_up() -> None:
            if counter.value > bar.n:
                bar.update(counter.value - bar.n)

        def follow() -> None:
            while not finished.wait(0.2):
                catch_up()

        thread = Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()
            catch_up()


def report_unreadable(folder: ResultsFolder, sources: list[Source]) -> int:
    """Print the number of unreadable files, and return the exit status."""
    # A video is listed once, however many of its frames could not be used.
    lines = sorted(set(folder.unreadable_list.read_text(errors="surrogateescape").splitlines()))
    if not lines:
        folder.unreadable_list.unlink()
        return 0
    folder.unreadable_list.write_text("\n".join(lines) + "\n", errors="surrogateescape")
    what = "images and videos" if any(source.is_video for source in sources) else "images"
    print(
        f"{len(lines)} of {len(sources)} {what} could not be read, see {folder.unreadable_list}",
        file=sys.stderr,
    )
    return 1
