"""Predicting on many images, by one process or several."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from detectron2.structures import Instances

from panet.utils.background import Background

from .batches import group_alike
from .folder import Record, ResultsFolder, frame_name, stamp_of
from .inputs import Source
from .media import Picture, UnreadableImageError, probe_video, read_frames, read_image
from .predictor import Predictor, Prepared
from .prefetch import read_ahead

_READING_THREADS = 4
_GROUPS_WAITING = 4


@dataclass(frozen=True)
class _New:
    """An image to predict on: its name in the folder, its record without detections, its pixels."""

    name: str
    record: Record
    image: Picture
    prepared: Prepared


@dataclass(frozen=True)
class _Known:
    """An image with a record. It is read only if something is still to be drawn from it."""

    name: str
    record: Record
    image: Picture


@dataclass(frozen=True)
class _Unreadable:
    source: Source
    reason: str


class _Finished:
    """A frame that is passed over."""


_Job = Callable[[], _New | _Known | _Unreadable | _Finished]


def unfinished_sources(sources: Sequence[Source], folder: ResultsFolder) -> list[Source]:
    """Those of which something is still to be predicted, drawn or reported.

    For the videos among them the folder is told to expect their frames.
    """
    unfinished = [source for source in sources if not _is_finished(source, folder)]
    for source in unfinished:
        if source.is_video:
            with suppress(UnreadableImageError, OSError):
                _, rate = probe_video(source.path)
                folder.begin_video(source.name, stamp_of(source.path), rate)
    return unfinished


def _is_finished(source: Source, folder: ResultsFolder) -> bool:
    try:
        stamp = stamp_of(source.path)
    except OSError:
        return False
    if source.is_video:
        return folder.is_finished_video(source.name, stamp)
    return folder.is_finished(source.name, stamp)


def count_images(sources: Sequence[Source]) -> int:
    """The number of images and, as far as the videos tell it, of frames."""
    return sum(_count_frames(source.path) if source.is_video else 1 for source in sources)


def _count_frames(video: Path) -> int:
    try:
        return max(1, probe_video(video)[0])
    except UnreadableImageError:
        return 1


def predict_share(
    predictor: Predictor,
    folder: ResultsFolder,
    sources: Sequence[Source],
    *,
    batch_size: int,
    rank: int,
    processes: int,
    counter: "Synchronized[int]",
) -> None:
    """Predict on one process's share of the images and frames, and write what is found.

    Args:
        predictor: of the process.
        folder: that all processes write to.
        sources: the same ones in all processes, in the same order.
        batch_size: how many images of like size to compute at once.
        rank: of the process, from 0 on.
        processes: their number.
        counter: counts the images and frames that any process is through with.
    """

    def count() -> None:
        with counter.get_lock():
            counter.value += 1

    def finish(batch: Sequence[_New], results: Sequence[Instances]) -> None:
        for item, instances in zip(batch, results):
            record = {**item.record, "detections": predictor.detections(instances)}
            folder.save(item.name, record)
            folder.draw_missing(item.name, record, item.image)
            count()

    def finish_other(item: _Known | _Unreadable | _Finished) -> None:
        if isinstance(item, _Known):
            folder.draw_missing(item.name, item.record, item.image)
        elif isinstance(item, _Unreadable):
            (folder.remove_video if item.source.is_video else folder.remove)(item.source.name)
            folder.report_unreadable(item.source.path, item.reason)
        count()

    jobs = _jobs(predictor, folder, sources, rank, processes)
    with (
        Background() as background,  # what is written, in order
        closing(read_ahead(jobs, _READING_THREADS, _READING_THREADS + batch_size)) as loaded,
    ):
        batches = group_alike(
            _new_ones(loaded, partial(background.submit, finish_other)),
            key=lambda item: predictor.padded_size(item.prepared),
            size=batch_size,
            max_waiting=_GROUPS_WAITING * batch_size,
        )
        for batch in batches:
            results = predictor.infer([item.prepared for item in batch])
            background.submit(finish, batch, results)


def _new_ones(
    loaded: Iterable[_New | _Known | _Unreadable | _Finished],
    finish_other: Callable[[_Known | _Unreadable | _Finished], None],
) -> Iterator[_New]:
    """Pass on what the model is needed for, and have the rest finished."""
    for item in loaded:
        if isinstance(item, _New):
            yield item
        else:
            finish_other(item)


def _jobs(
    predictor: Predictor,
    folder: ResultsFolder,
    sources: Sequence[Source],
    rank: int,
    processes: int,
) -> Iterator[_Job]:
    images = [source for source in sources if not source.is_video]
    for source in images[rank::processes]:
        yield partial(_read, source, folder, predictor)
    for source in sources:
        if source.is_video:
            # Each process reads the whole video, which is fast, and takes its share of the frames.
            yield from _frame_jobs(source, folder, predictor, rank, processes)


def _read(
    source: Source, folder: ResultsFolder, predictor: Predictor
) -> _New | _Known | _Unreadable:
    try:
        stamp = stamp_of(source.path)
        image = read_image(source.path)
        record = {"file_name": source.name}
        return _look_up(source.name, record, stamp, image, folder, predictor)
    except UnreadableImageError as error:
        return _Unreadable(source, str(error))
    except OSError as error:
        return _Unreadable(source, error.strerror or str(error))


def _look_up(
    name: str,
    record: Record,
    stamp: str,
    image: Picture,
    folder: ResultsFolder,
    predictor: Predictor,
) -> _New | _Known:
    known = folder.load(name, stamp)
    if known is not None:
        return _Known(name, known, image)
    height, width = image.shape[:2]
    record = {**record, "width": width, "height": height, "stamp": stamp}
    return _New(name, record, image, predictor.prepare(image))


def _frame_jobs(
    source: Source, folder: ResultsFolder, predictor: Predictor, rank: int, processes: int
) -> Iterator[_Job]:
    def is_wanted(number: int) -> bool:
        if number % processes != rank:
            return False
        return not folder.is_finished(frame_name(source.name, number), stamp)

    try:
        stamp = stamp_of(source.path)
        for number, image in read_frames(source.path, is_wanted):
            if image is not None:
                name = frame_name(source.name, number)
                record = {"file_name": source.name, "frame": number}
                yield partial(_look_up, name, record, stamp, image, folder, predictor)
            elif number % processes == rank:
                yield _Finished
        if rank == 0:
            folder.end_video(source.name, number)
    except (UnreadableImageError, OSError) as error:
        if rank == 0:
            yield partial(_Unreadable, source, str(error))
