"""A user's own images on a disk or an object store: one folder a class, with images in it or in folders below it.

The layouts:

- ``<class>/``: the hash of an image's path decides whether the image belongs to the test part.
- ``train/<class>/`` and ``test/<class>/``.
- ``train/``, ``val/`` and ``test/``: ``val/`` is the validation split.
- ``train/`` and ``val/``: ``val/`` is the test part, as in ImageNet.

``valid`` and ``validation`` mean ``val``, and capital letters do not matter. Names are sorted.
"""

from __future__ import annotations

from collections.abc import Mapping

from results.storage.object_store import RemotePath
from results.storage.paths import Location
from study.data.bucket_listing import listed_bucket
from study.data.file_listing import ImageTree, LocalTree, PassedOver
from study.data.file_parts import PART_NAMES, ListedFiles, PartName, divide, listed_files
from study.errors import UserError

_CLASSES_SHOWN = 5


def image_folder(root: Location) -> ListedFiles:
    """List the parts of an image folder.

    Raises:
        UserError: the folder or its classes are not as they must be.
    """
    if isinstance(root, RemotePath):
        return _list(listed_bucket(root, "image folder"))
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "is not there"
        raise UserError(f"image folder {root} {problem}: give an existing folder, absolute or below the data root")
    try:
        return _list(LocalTree(root.resolve()))
    except OSError as error:
        raise UserError(f"cannot list image folder {root}: {error}") from error


def _list(root: ImageTree) -> ListedFiles:
    passed_over = PassedOver()
    names = root.subfolders(passed_over)
    places = _places(root, names)
    by_class: Mapping[PartName, Mapping[str, list[str]]]
    notes: list[str] = []
    if divided := not places:
        by_class = divide({name: (root / name).image_files(passed_over) for name in _two_classes(root, names)})
    else:
        folders = {place.name for place in places.values()}
        passed_over.update({f"folder {name}/ beside train/": 1 for name in names if name not in folders})
        classes = _classes_of_parts(root, places, passed_over, notes)
        by_class = {
            part: {name: (place / name).image_files(passed_over) for name in classes} for part, place in places.items()
        }
    if passed_over:
        notes.append(f"passed over: {passed_over}")
    return listed_files(root, by_class, notes, divided=divided)


def _places(root: ImageTree, names: list[str]) -> dict[PartName, ImageTree]:
    """Part -> its folder; empty where the folders of the root are classes."""
    places: dict[PartName, ImageTree] = {}
    for name in names:
        part = PART_NAMES.get(name.lower())
        if part in places:
            raise UserError(f"image folder {root} has both {places[part].name}/ and {name}/: keep one of them")
        if part is not None:
            places[part] = root / name
    # A class may have one of these names, too.
    decisive = [places[part] for part in ("train", "test") if part in places]
    return places if any(place.subfolders(PassedOver()) for place in decisive) else {}


def _classes_of_parts(
    root: ImageTree, places: dict[PartName, ImageTree], passed_over: PassedOver, notes: list[str]
) -> tuple[str, ...]:
    """The classes, which all parts have in common. ``places`` is left with ``train``, ``test``, perhaps ``validation``.

    A ``test/`` without the classes of ``train/``, as contests publish it, is passed over where there is a ``val/``.
    """
    if "train" not in places:
        raise UserError(f"image folder {root} lacks train/: it needs both train/<class>/ and test/<class>/")
    classes = _two_classes(places["train"], places["train"].subfolders(passed_over))
    own, test = places.get("validation"), places.get("test")
    if own and test and not set(classes) & set(test.subfolders(PassedOver())):
        passed_over[f"folder {test.name}/ without class folders"] += 1
        del places["test"]
    if own and "test" not in places:
        places["test"] = places.pop("validation")
        notes.append(f"{own.name}/ is the test part, and the validation split is cut from train/")
    elif own:
        notes.append(f"{own.name}/ is the validation split")
    if "test" not in places:
        raise UserError(
            f"image folder {root} lacks test/: it needs both train/<class>/ and test/<class>/ (or val/); to keep about "
            f"a fifth of the images for the test, give {places['train']}"
        )
    for part, place in places.items():
        if part != "train":
            found = _two_classes(place, place.subfolders(passed_over))
            _refuse_other_classes(root, place.name, classes, found)
    return classes


def _two_classes(folder: ImageTree, names: list[str]) -> tuple[str, ...]:
    if not names:
        raise UserError(f"image folder {folder} has no class folders: it needs one folder of images for each class")
    if len(names) == 1:
        below = len((folder / names[0]).subfolders(PassedOver()))
        hint = f"; {names[0]}/ holds {below} folders: if they are the classes, give {folder / names[0]}"
        raise UserError(
            f"image folder {folder} has one class only ({names[0]}): a classifier needs at least two"
            + (hint if below > 1 else "")
        )
    return tuple(names)


def _refuse_other_classes(root: ImageTree, part: str, classes: tuple[str, ...], found: tuple[str, ...]) -> None:
    if difference := sorted(set(classes) ^ set(found)):
        only = [f"{name} only in {'train' if name in classes else part}/" for name in difference[:_CLASSES_SHOWN]]
        more = f" and {len(difference) - _CLASSES_SHOWN} more" if len(difference) > _CLASSES_SHOWN else ""
        raise UserError(
            f"image folder {root}: train/ and {part}/ must hold the same classes, but: {', '.join(only)}{more}"
        )
