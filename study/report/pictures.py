"""A few images that stop early and late at the recommended point, for a page that stays with its owner."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np

from study.arrays import Integers
from study.errors import UserError
from study.report.blocks import Picture
from study.report.source import Source

_COUNT = 12
"""Pictures of each kind."""
_SIDE = 96
"""Pixels of the side of a picture."""


def pictures_of(source: Source, data_root: Path) -> list[Picture]:
    """Validation images that stop first and last at the recommended point.

    Raises:
        UserError: the study has no front or no traces; the images are not there, or are others than those of the study.
    """
    from study.data.loading import load_dataset
    from study.policies.replay import replay
    from study.run.folder import stored_study_file
    from study.run.plan import data_settings
    from study.search.operating_point import point_of

    if source.summary is None:
        raise UserError("Images need a finished study: there is no front yet.")
    if isinstance(source.networks, str):
        raise UserError(f"Images need traces. {source.networks}")
    dataset = load_dataset(data_settings(source.spec, source.data), data_root)
    known = stored_study_file(source.folder)["provenance"].get("data_digest") or {}
    if known.get(source.data) != dataset.info.digest:
        raise UserError(f"The images of {source.data} are others than those of the study.")
    row = source.summary.recommended.to_dict()
    point = point_of({str(key): _plain(value) for key, value in row.items()}, source.networks)
    walk = replay(point.network.trace(point.statistic), point.policy)
    order = np.argsort(walk.exit_index, kind="stable")
    names, images, labels = dataset.info.class_names, dataset.validation.images, dataset.validation.labels
    found = []
    for place in dict.fromkeys([*order[:_COUNT], *order[-_COUNT:]]):
        exit, own = int(walk.exit_index[place]), names[labels[place]]
        said = names[walk.predictions[place]]
        verdict = f"{own}, recognised" if said == own else f"{own}, taken for {said}"
        end = "classifier" if exit > point.network.exit_count else f"exit {exit}"
        found.append(Picture(png=_png(images[place]), caption=f"{end}: {verdict}"))
    return found


def _plain(value: object) -> object:
    return None if isinstance(value, float) and np.isnan(value) else value


def _png(image: Integers) -> bytes:
    """An image ``[C, H, W]`` of bytes as a PNG file."""
    from PIL import Image

    pixels = np.asarray(image, dtype=np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    content = BytesIO()
    picture.resize((_SIDE, _SIDE), Image.Resampling.NEAREST).save(content, "PNG")
    return content.getvalue()
