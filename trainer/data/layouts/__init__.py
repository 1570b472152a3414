"""How faces may lie on a disk: a module for each layout, with its class and what only it needs.

One more layout is a module with a subclass of `layout.Layout` and its instance in LAYOUTS; nothing
outside this folder asks which one a data set is in.
"""

from __future__ import annotations

from pathlib import Path

from trainer.data.layouts.course import Course
from trainer.data.layouts.layout import Layout, Listing
from trainer.data.layouts.official import Official
from trainer.errors import DataError

# the first one that finds its folders is taken
LAYOUTS: list[Layout] = [Course(), Official()]


def list_folder(root: Path) -> Listing:
    """The files of a folder in one of the layouts.

    Raises DataError if it is missing, empty or other, or says two things at once.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data folder {str(root)!r} {what}; give --data DIR, or synthetic")
    found = (layout.find(root) for layout in LAYOUTS)
    listing = next((listing for listing in found if listing is not None), None)
    if listing is None and any(root.iterdir()):
        known = " nor ".join(layout.folders for layout in LAYOUTS)
        raise DataError(
            f"data folder {str(root)!r} has neither {known}; see README.md, 'Your own data'"
        )
    if listing is None:
        raise DataError(f"data folder {str(root)!r} is empty; give --data DIR, or synthetic")
    if not listing.images and not listing.masks:
        raise DataError(
            f"data folder {str(root)!r} holds no pictures; give --data DIR, or synthetic"
        )
    return listing
