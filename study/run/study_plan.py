"""The plan of a start: a study with its names, its precision and its images resolved, before anything is written.

``run`` executes the plan, ``run --dry-run`` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.spec import StudySpec
from study.data.loading import load_dataset
from study.data.settings import Dataset, DataSettings
from study.execution.executor import Executor
from study.run.folder import STUDY_FILE, Difference, recorded_precisions, refuse_other_study
from study.run.own_weights import check_pretrained
from study.run.plan import resolve_precision
from study.run.preflight import check, check_deadlines
from study.storage.publish import check_writable

if TYPE_CHECKING:
    from study.run.run import RunContext


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """A study that can start in its run folder."""

    spec: StudySpec
    """The precision ``auto`` is resolved."""
    settings: Mapping[str, DataSettings]
    """Data set -> resolved settings."""
    datasets: Mapping[str, Dataset]
    grown: tuple[Difference, ...]
    """In what the study is larger than the one that the run folder holds."""

    @property
    def digests(self) -> dict[str, str]:
        """Data set -> digest of its images."""
        return {name: dataset.info.digest for name, dataset in self.datasets.items()}

    def image_counts(self) -> dict[str, dict[str, int]]:
        """Data set -> number of classes, and of images of each split. The test part is not counted."""
        return {
            name: {
                "classes": len(one.info.class_names),
                "train": len(one.train),
                "calibration": len(one.calibration),
                "validation": len(one.validation),
            }
            for name, one in self.datasets.items()
        }


def make_plan(spec: StudySpec, where: RunContext, executor: Executor, *, extend: bool) -> StudyPlan:
    """Resolve all names of a study, check all values, and load its images. Nothing is written.

    Args:
        spec: the study.
        where: the run folder and the place of the images.
        executor: asked what the precision ``auto`` means on the machines that train.
        extend: the run folder may hold a smaller study.

    Raises:
        UserError: a name or value that the program does not know, images that are missing or damaged, or a run folder
            that holds another study or cannot be written.
    """
    settings = {one.name: one for one in check(spec)}
    check_writable(where.folder)
    spec = resolve_precision(spec, recorded_precisions(where.folder), executor, where.reporter)
    grown = refuse_other_study(spec, where.folder, extend=extend)
    # A damaged test image is reported now, not after the training. A later start need not read the test images again.
    new = extend or not (where.folder / STUDY_FILE).is_file()
    datasets = {
        name: load_dataset(one, where.data_root, download=where.download, check_test=new)
        for name, one in settings.items()
    }
    for dataset in datasets.values():
        check_deadlines(spec, dataset.info)
        check_pretrained(spec, dataset.info)
    return StudyPlan(spec=spec, settings=settings, datasets=datasets, grown=tuple(grown))


def images_line(name: str, counts: Mapping[str, int]) -> str:
    """The classes and images of a data set, in one line."""
    splits = ", ".join(f"{count} {split}" for split, count in counts.items() if split != "classes")
    return f"{name}: {counts['classes']} classes; images: {splits}"
