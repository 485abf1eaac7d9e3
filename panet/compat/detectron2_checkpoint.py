"""Make detectron2's ``DetectionCheckpointer`` usable after a failed load.

Seen in sal-detectron2 0.7.2 and in detectron2 at commit 02b5c4e: after an error, every further call
of ``load`` fails an assertion. Remove this file when that is fixed.
"""

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer


class ReusableCheckpointer(DetectionCheckpointer):
    """A ``DetectionCheckpointer`` that can load another file after a failed load."""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None
