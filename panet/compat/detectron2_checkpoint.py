"""detectron2's ``DetectionCheckpointer``, which loads nothing more once a file was not readable.

Seen in sal-detectron2 0.7.2 and in detectron2's sources, commit 02b5c4e: an error leaves it in a
state in which it refuses to load. This file can go once it does not.
"""

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer


class ReusableCheckpointer(DetectionCheckpointer):
    """A ``DetectionCheckpointer`` that can be asked for another file after an error."""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None
