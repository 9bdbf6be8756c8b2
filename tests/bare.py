"""A process that has loaded what the Hub's libraries stand on, and none of them: copies of it are fresh interpreters.

Those libraries read the environment when they are imported, and so does this package; torch, pandas and the like, which
take most of the time, do not. What is asked on its standard input, a line of JSON each, it answers with the exit code
of the copy that did it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys
from typing import Any

LOADED = (
    "torch", "torch._dynamo", "torch.distributed.tensor", "torch.export", "numpy", "pandas", "pyarrow.parquet",
    "scipy.linalg", "scipy.optimize", "scipy.sparse.linalg", "scipy.spatial", "scipy.special", "PIL.Image", "aiohttp",
    "dill", "httpx", "jinja2", "regex", "requests", "rich.console", "yaml",
)  # fmt: skip


def serve() -> dict[str, Any]:
    """Returns in each copy, with what it is asked to run; in the process itself when nobody is left to ask."""
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            request: dict[str, Any] = json.loads(line)
            return request
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    raise SystemExit


def become(request: dict[str, Any]) -> None:
    """The process that ``python WORDS`` would be, in this folder and with this environment, as far as can be seen."""
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, request["output"], os.O_WRONLY),
                                (2, request["errors"], os.O_WRONLY)):  # fmt: skip
        file = os.open(path, flags)
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.orig_argv = [sys.executable, *request["words"]]
    first, *words = request["words"]
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if first == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *words[1:]]
        exec(compile(words[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        sys.argv = [first, *words]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    gc.disable()
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    become(serve())
