"""The weights that the backbones of a study start from, and the copy of them that a run folder keeps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from results.storage.paths import Location
from search_spaces.spec import StudySpec
from study.checkpoints.description import WeightsId
from study.checkpoints.initial import TRIAL, is_at_hand, load_initial, read_initial
from study.errors import UserError
from study.progress import Reporter
from study.run.folder import read_study_file
from study.storage.publish import DamagedError


def starting_weights(
    spec: StudySpec, folder: Location, *, download: bool, reporter: Reporter
) -> Mapping[str, Tensor] | None:
    """The weights that ``backbones.initial`` names; None where backbones start from random weights.

    Where the file is gone, a study that has started goes on with the copy in its run folder, and one line says so.

    Args:
        spec: the study.
        folder: its run folder, which may not be there yet.
        download: published weights may be fetched.
        reporter: gets the line.

    Raises:
        UserError: nothing is there, it holds no weights, or the study names ``pretrained`` weights too.
    """
    name = spec.backbones.initial
    if name is None:
        return None
    if spec.backbones.pretrained is not None:
        raise UserError("backbones.initial starts a training, which backbones.pretrained leaves out: give one")
    digest = None if is_at_hand(name) else _recorded_digest(folder)
    if digest is None:
        backbones = [str(one) for one in spec.choices("backbones")["backbone"].values]
        return load_initial(name, backbones, download=download)
    try:
        copy = read_initial(folder, WeightsId(TRIAL, digest))
    except (DamagedError, UserError):
        raise UserError(
            f"backbones.initial: {name} does not exist, and {folder / 'initial' / digest} holds no whole copy: put the "
            "file back"
        ) from None
    reporter.line(f"backbones.initial: {name} does not exist; the copy in {folder / 'initial' / digest} is used")
    return copy


def _recorded_digest(folder: Location) -> str | None:
    """The digest of the weights from which the study in a run folder started."""
    try:
        stored = read_study_file(folder)
    except UserError:  # a damaged file is set aside later
        return None
    backbones = stored["study"].get("backbones") if stored else None
    digest = backbones.get("initial_digest") if isinstance(backbones, dict) else None
    return digest if isinstance(digest, str) and digest.isalnum() else None
