"""Makes Python processes mortal: SIGKILL at a given file operation, before or after it takes place.

Python imports this module at the start of every process that has its folder in PYTHONPATH. File operations below the
folder ``MORTAL_FOLDER`` are counted: renames, removals, flushes to disk. The first process is the driver, all others
are workers. Nothing is ever caught, flushed or cleaned up: this is what a power cut does to a process.

``MORTAL_DRIVER_AT``, ``MORTAL_WORKER_AT``: number of the operation, among those on paths that begin with one of
``MORTAL_DRIVER_IN``, ``MORTAL_WORKER_IN``. ``MORTAL_STATE``: a folder for the claims (which process is the driver,
which worker has died already) and for the driver's log of operations.
"""

import os
import signal
from pathlib import Path

_FOLDER = os.environ.get("MORTAL_FOLDER")


def _claim(name: str) -> bool:
    """True for the first process that asks."""
    try:
        os.close(os.open(f"{os.environ['MORTAL_STATE']}/{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _make_mortal(folder: str) -> None:
    role = "driver" if _claim("driver") else "worker"
    limit = int(os.environ.get(f"MORTAL_{role.upper()}_AT", "0"))
    stage = tuple(os.environ.get(f"MORTAL_{role.upper()}_IN", "").split(os.pathsep))
    log = Path(os.environ["MORTAL_STATE"]) / "operations"
    done = 0

    def counted(operate, path_of):
        def mortal(*args, **kwargs):
            nonlocal done
            path = path_of(*args)
            if path is None or not path.startswith(folder):
                return operate(*args, **kwargs)
            inside = path[len(folder) + 1 :]
            if role == "driver":
                with log.open("a") as file:
                    file.write(f"{inside}\n")
            mine = inside.startswith(stage)
            done += mine
            dies = mine and done == limit and (role == "driver" or _claim("dead worker"))
            if dies and limit % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = operate(*args, **kwargs)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return mortal

    def of_path(path, *_):
        return str(Path(path).absolute()) if isinstance(path, str | os.PathLike) else None

    def of_descriptor(descriptor):
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        return str(Path(f"/proc/self/fd/{number}").readlink())

    for name, path_of in (("replace", of_path), ("rename", of_path), ("unlink", of_path), ("fsync", of_descriptor)):
        setattr(os, name, counted(getattr(os, name), path_of))


if _FOLDER:
    _make_mortal(_FOLDER)
