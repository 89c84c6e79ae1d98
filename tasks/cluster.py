"""Ray for a run: one that is there already, a cluster's, or a small local one that is started and stopped here."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

OBJECT_STORE_BYTES = 200 * 2**20
START_ATTEMPTS = 3
_LATE = "timed out during startup"  # How Ray says that its processes were not up within its fixed 30 s.


class ClusterError(RuntimeError):
    """Ray cannot give what the workers need."""


class RayKeeper:
    """A thread that starts Ray and outlives its use.

    A local Ray's processes die with the thread that started them (PR_SET_PDEATHSIG), and a stage's thread may end
    before the run does.
    """

    def __init__(self, workers: int, gpus: float) -> None:
        """Returns once Ray is there; raises what its start raised, and ClusterError where the machine is too busy."""
        for _ in range(START_ATTEMPTS):
            self._up, self._down = threading.Event(), threading.Event()
            self._owned = False
            self._error: Exception | None = None
            self._thread = threading.Thread(target=self._live, args=(workers, gpus), name="ray-keeper", daemon=True)
            self._thread.start()
            self._up.wait()
            if self._error is None:
                return
            self._thread.join()  # What it had started of Ray ends with it.
            if _LATE not in str(self._error):
                raise self._error
        raise ClusterError(
            f"Ray did not start within its 30 s, {START_ATTEMPTS} times: the machine is too busy. Run the same command "
            "again when it is less so; what is done is kept."
        ) from self._error

    def release(self) -> None:
        """Stops Ray, where it was this thread that connected it."""
        self._down.set()
        self._thread.join()

    def _live(self, workers: int, gpus: float) -> None:
        try:
            self._owned = _init_ray(workers, gpus)
        except Exception as error:
            self._error = error
            return
        finally:
            self._up.set()
        self._down.wait()
        if self._owned:
            import ray

            ray.shutdown()


def _init_ray(workers: int, gpus: float) -> bool:
    """Connects to Ray; True where this connected it.

    Raises:
        ClusterError: a local Ray lacks the GPUs, or the cluster of RAY_ADDRESS is not reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:
            # A cluster that wants a token refuses those that send none without saying that this is why.
            raise ClusterError(
                f"The Ray cluster at {address} is not reached: {error}. Look at RAY_ADDRESS; where the cluster was "
                "started with a token, as by deployments/ray/cluster.yaml, set RAY_AUTH_MODE=token here too, and put "
                "the token into ~/.ray/auth_token."
            ) from error
        return True
    with _no_attendants():
        ray.init(
            address="local",
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
            num_cpus=workers,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    found = ray.cluster_resources().get("GPU", 0)
    if found < gpus:  # Ray itself would wait for them for ever.
        ray.shutdown()
        raise ClusterError(
            f"{workers} workers need {gpus:g} GPUs and this machine has {found:g}: use fewer workers or GPUs each"
        )
    return True


@contextmanager
def _no_attendants() -> Iterator[None]:
    """Ray starts without three processes that serve a cluster: what a dashboard leaves, autoscaler, reader of logs.

    One machine for one run has no use for them. They are Python programs of their own, and `ray.init` waits for the
    first of them: half of its time. The other two can be left out by name, which `ray.init` does not pass on.
    """
    from ray._private import parameter, services

    kept = parameter.RayParams, services.start_api_server
    parameter.RayParams = partial(kept[0], no_monitor=True, include_log_monitor=False)
    # What it returns where a dashboard did not start, which Ray takes in its stride.
    services.start_api_server = lambda *_, **__: (None, None)
    try:
        yield
    finally:
        parameter.RayParams, services.start_api_server = kept
