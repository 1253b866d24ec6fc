"""Connections to a Dask cluster: one that runs, or one that is started on this machine."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from mediar_infer import __version__
from mediar_infer.cluster.worker import ClusterJob, find_problem, import_distributed
from mediar_infer.config import EngineConfig
from mediar_infer.devices import usable_cores
from mediar_infer.errors import ClusterError, UsageError

_CONNECT_S: Final = 20.0
_START_S: Final = 120.0
_LOCAL: Final = "local:"


@contextmanager
def connected(scheduler: str, config: EngineConfig) -> Iterator[tuple[Any, int]]:
    """Connect to a cluster, or start one on this machine for the time of a block.

    Args:
        scheduler: address of a running scheduler, or ``local:N`` for N processes here.
        config: settings, whose number of threads counts.

    Yields:
        A client of the cluster, and the threads that each worker takes (0: its own number).

    Raises:
        UsageError: if Dask is not installed, or the scheduler cannot be reached.
        ClusterError: if no workers come.
    """
    n_local, distributed = _n_local_workers(scheduler), import_distributed()
    threads = config.runtime.threads
    if n_local is None:
        with _open_client(distributed, scheduler) as client:
            _wait_for_workers(client, scheduler, 1)
            yield client, threads
        return
    # No memory limit, as without a cluster; warnings are logged here.
    with (
        distributed.LocalCluster(
            n_workers=n_local, threads_per_worker=1, processes=True, memory_limit=0,
            dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR,
        ) as cluster,
        _open_client(distributed, cluster.scheduler_address) as client,
    ):  # fmt: skip
        _wait_for_workers(client, scheduler, n_local)
        yield client, threads or max(1, usable_cores() // n_local)


def _open_client(distributed: Any, address: str) -> Any:  # noqa: ANN401
    # Our own errors report a lost connection.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        # Maps go from the worker to this process without passing through the scheduler.
        return distributed.Client(
            address, timeout=_CONNECT_S, direct_to_workers=True, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--dask {address}: found no scheduler ({error}), expected a running one such as"
            " tcp://HOST:8786, or local:N; check the address and that 'dask scheduler' runs"
        ) from error


def _wait_for_workers(client: Any, scheduler: str, n_workers: int) -> None:  # noqa: ANN401
    try:
        client.wait_for_workers(n_workers, timeout=_START_S)
    except TimeoutError as error:
        raise ClusterError(
            f"--dask {scheduler}: found {len(client.nthreads())} workers after {_START_S:.0f} s,"
            f" expected {n_workers} or more; start workers: dask worker ADDRESS"
        ) from error


def _n_local_workers(scheduler: str) -> int | None:
    """N of ``local:N``; None for an address."""
    if not scheduler.startswith(_LOCAL):
        return None
    number = scheduler.removeprefix(_LOCAL)
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(
            f"found --dask {scheduler}, expected local:N with 1 worker or more, such as local:2"
        )
    return int(number)


def check_workers(client: Any, job: ClusterJob) -> None:  # noqa: ANN401
    """Refuse a cluster with workers that cannot do the job, naming each of them.

    Raises:
        ClusterError: if there are any.
    """
    answers: Mapping[str, Any] = client.run(find_problem, job, on_error="return")
    present = client.nthreads()
    problems = []
    for address, answer in answers.items():
        if answer is None or address not in present:
            continue
        if isinstance(answer, Exception):
            # Mostly an import that fails.
            answer = f"found {answer}, expected an answer; install mediar_infer {__version__} there"
        problems.append(f"worker {address}: {answer}")
    if problems:
        raise ClusterError("; ".join(problems))
