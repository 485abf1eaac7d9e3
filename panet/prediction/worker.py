"""Prediction on many images by one or several processes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.sharedctypes import Synchronized

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
class _Pending:
    """An image to predict on: its name in the folder, its record without detections, its pixels."""

    name: str
    record: Record
    image: Picture
    prepared: Prepared


_Finish = Callable[[], None]
"""Writes what is left to write for an image that needs no prediction."""

_Job = Callable[[], _Pending | _Finish]
"""Reads an image."""


def unfinished_sources(sources: Sequence[Source], folder: ResultsFolder) -> list[Source]:
    """Select the sources with something left to predict, draw or report.

    Videos among them are registered in the folder before their frames are written.
    """
    unfinished = [source for source in sources if not _is_finished(source, folder)]
    for source in unfinished:
        if source.is_video:
            try:
                _, rate = probe_video(source.path)
                stamp = stamp_of(source.path)
            except (UnreadableImageError, OSError):
                continue  # predict_share reports it
            folder.begin_video(source.name, stamp, rate)
    return unfinished


def _is_finished(source: Source, folder: ResultsFolder) -> bool:
    try:
        stamp = stamp_of(source.path)
    except OSError:
        return False
    is_finished = folder.is_finished_video if source.is_video else folder.is_finished
    return is_finished(source.name, stamp)


def count_images(sources: Sequence[Source]) -> int:
    """Count images and frames. A video that reports no frame count counts as one."""
    count = 0
    for source in sources:
        frames = 1
        if source.is_video:
            with suppress(UnreadableImageError, OSError):
                frames = max(1, probe_video(source.path)[0])
        count += frames
    return count


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
    """Predict on one process's share of the images and frames, and write the results.

    Reading and writing run in background threads while the model computes.

    Args:
        predictor: the predictor of this process.
        folder: folder that all processes write to.
        sources: the same sources in the same order in all processes.
        batch_size: number of images of similar size in a batch.
        rank: index of the process, from 0.
        processes: number of processes.
        counter: counts the images and frames finished by all processes.
    """

    def count() -> None:
        with counter.get_lock():
            counter.value += 1

    def write(batch: Sequence[_Pending], results: Sequence[Instances]) -> None:
        for item, instances in zip(batch, results):
            record = {**item.record, "detections": predictor.detections(instances)}
            folder.save(item.name, record)
            folder.draw_missing(item.name, record, item.image)
            count()

    def finish(item: _Finish) -> None:
        item()
        count()

    def pending_images() -> Iterator[_Pending]:
        for item in loaded:
            if isinstance(item, _Pending):
                yield item
            else:
                background.submit(finish, item)

    jobs = _Reader(predictor, folder, rank, processes).jobs(sources)
    with (
        Background() as background,  # writes in the order of submission
        closing(read_ahead(jobs, _READING_THREADS, _READING_THREADS + batch_size)) as loaded,
    ):
        batches = group_alike(
            pending_images(),
            key=lambda item: predictor.padded_size(item.prepared),
            size=batch_size,
            max_waiting=_GROUPS_WAITING * batch_size,
        )
        for batch in batches:
            results = predictor.infer([item.prepared for item in batch])
            background.submit(write, batch, results)


@dataclass(frozen=True)
class _Reader:
    """Reading of one process's share of the images and frames."""

    predictor: Predictor
    folder: ResultsFolder
    rank: int
    processes: int

    def jobs(self, sources: Sequence[Source]) -> Iterator[_Job]:
        """Yield a job for each image, then for each frame."""
        images = [source for source in sources if not source.is_video]
        for source in images[self.rank :: self.processes]:
            yield partial(self._read, source)
        for source in sources:
            if source.is_video:
                yield from self._frame_jobs(source)

    def _read(self, source: Source) -> _Pending | _Finish:
        try:
            stamp = stamp_of(source.path)
            image = read_image(source.path)
        except (UnreadableImageError, OSError) as error:
            return self._unreadable(source, error)
        return self._prepare(source, source.name, {"file_name": source.name}, stamp, image)

    def _frame_jobs(self, source: Source) -> Iterator[_Job]:
        # Each process decodes the whole video, which is fast, and takes its share of the frames.
        def is_own(number: int) -> bool:
            return number % self.processes == self.rank

        def is_wanted(number: int) -> bool:
            name = frame_name(source.name, number)
            return is_own(number) and not self.folder.is_finished(name, stamp)

        try:
            stamp = stamp_of(source.path)
            for number, image in read_frames(source.path, is_wanted):
                if image is not None:
                    name = frame_name(source.name, number)
                    record = {"file_name": source.name, "frame": number}
                    yield partial(self._prepare, source, name, record, stamp, image)
                elif is_own(number):
                    yield lambda: _do_nothing  # finished already, only counted
        except (UnreadableImageError, OSError) as error:
            if self.rank == 0:
                report = self._unreadable(source, error)
                yield lambda: report
        else:
            if self.rank == 0:
                self.folder.end_video(source.name, number)

    def _prepare(
        self, source: Source, name: str, record: Record, stamp: str, image: Picture
    ) -> _Pending | _Finish:
        """Prepare an image for prediction, or only for drawing if it has a record already."""
        existing = self.folder.load(name, stamp)
        if existing is not None:
            return partial(self.folder.draw_missing, name, existing, image)
        height, width = image.shape[:2]
        record = {**record, "width": width, "height": height, "stamp": stamp}
        try:
            prepared = self.predictor.prepare(image)
        except UnreadableImageError as error:
            return partial(self._report_unreadable, source, str(error), name)
        return _Pending(name, record, image, prepared)

    def _unreadable(self, source: Source, error: Exception) -> _Finish:
        reason = getattr(error, "strerror", None) or str(error)
        return partial(self._report_unreadable, source, reason, source.name)

    def _report_unreadable(self, source: Source, reason: str, name: str) -> None:
        """Remove the results of an image, frame or video, and report its file."""
        is_whole_video = source.is_video and name == source.name
        (self.folder.remove_video if is_whole_video else self.folder.remove)(name)
        self.folder.report_unreadable(source.path, reason)


def _do_nothing() -> None:
    pass
