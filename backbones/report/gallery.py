"""The gallery of a report: an evaluation's worst and best images, drawn from `evaluation/details.json`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from backbones.data.files import shown
from backbones.missing import MissingToolboxError

from .parts import Note, Part


def gallery_parts(
    details: dict[str, Any], folder: Path, budget: int, progress: Callable[[int, int], None] | None = None
) -> list[Part]:
    """Draw the gallery.

    Args:
        details: what `details.json` holds.
        folder: in which it lies, with the predictions.
        budget: bytes that all JPEGs together may take.
        progress: called with the number of cards done, and of all.

    Returns:
        A gallery, or a note that says why there is none: the data have moved or changed, or it is of another version.
    """
    from .gallery_detection import AGAIN, NoGalleryError, detection_parts

    try:
        if 'labels' in details['kinds']:
            from .gallery_segmentation import segmentation_parts as draw
        else:
            draw = detection_parts
        return draw(details, Path(folder), int(budget), progress)
    except NoGalleryError as error:
        return [error.note()]
    except MissingToolboxError as error:
        return [Note(f'No gallery of images: {str(error).rstrip(".")}.', 'warning')]
    except (OSError, ValueError) as error:  # the project's readers say what is wrong with data and predictions
        return [NoGalleryError(str(error).rstrip('.')).note()]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        return [Note(f'No gallery of images: {shown(Path(folder) / "details.json")} is damaged or of another version '
                     f'({type(error).__name__}: {str(error)[:80]}); evaluate again.', 'warning', AGAIN)]
