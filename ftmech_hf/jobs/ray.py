"""Sweeps on Ray: the same cells, on this machine or on a cluster that ``ray start`` or RAY_ADDRESS names."""

from __future__ import annotations

import importlib.util
import logging
import os
from concurrent.futures import Future
from typing import Any

import torch

from ftmech_hf.jobs.cell import Cell, run_cell
from ftmech_hf.jobs.workers import count_workers, gpu_share


def _run_on_ray(cell: Cell, reports: Any, folder: str) -> Any:
    if os.path.isdir(folder):  # output folders may be relative; on a cluster give one that all machines see
        os.chdir(folder)
    torch.set_num_threads(1)
    return run_cell(cell, reports)


class RayPool:
    """Ray's workers, one core and one thread each; a cell gets its part of a GPU where the cluster has some.

    Args:
        workers: cells side by side; 0 for as many as the cluster has cores, or fewer where it has GPUs.

    Raises:
        ValueError: Ray is not installed.
    """

    def __init__(self, workers: int) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ValueError("backend: ray is not installed; pip install 'ftmech_hf[ray]'")
        import ray
        from ray.util.queue import Queue

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = ray
        self._started_here = not ray.is_initialized()
        if self._started_here:
            # With an address in the environment this joins a cluster, without one it starts one on this machine.
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        resources = ray.cluster_resources()
        cores, cards = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        self.workers = workers or count_workers(cores, cores=cores, gpus=cards)
        self.reports = Queue(actor_options={"num_cpus": 0})
        self._run = ray.remote(num_cpus=1, num_gpus=gpu_share(self.workers, cards), max_retries=0)(_run_on_ray)

    def submit(self, cell: Cell) -> Future[Any]:
        """Hand a cell to the cluster."""
        future: Future[Any] = self._run.remote(cell, self.reports, os.getcwd()).future()
        return future

    def look(self) -> None:
        """Nothing: Ray watches its workers from their beginning."""

    def died(self, error: BaseException) -> bool:
        """Never: a worker of Ray that dies takes no other with it."""
        return False

    def close(self, *, stop: bool) -> None:
        """Let go of the cluster; one that was started here ends, and with it what it does."""
        self.reports.shutdown(force=stop)
        if self._started_here:
            self._ray.shutdown()
