"""SIGTERM, and what failed elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from jobs.resources.loading import CannotLoadError
from jobs.shell.stops import Terminated, listen, of_machine, terminable


def test_sigterm_ends_the_body_once_and_the_former_handler_is_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # while it leaves: not heard
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_is_heard_again_after_somebody_else_took_it() -> None:
    with terminable():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as ray.init does, with a handler of its own
        listen()
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_is_heard_while_somebody_else_has_it() -> None:
    def leave(*_: object) -> None:  # what ray.init puts in place for the seconds that it takes
        sys.exit(signal.SIGTERM)

    def told_meanwhile() -> None:
        signal.signal(signal.SIGTERM, leave)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated), terminable():
        told_meanwhile()
    with pytest.raises(SystemExit, match="2"), terminable():
        sys.exit(2)


def test_in_another_thread_nothing_is_changed() -> None:
    before, entered = signal.getsignal(signal.SIGTERM), []

    def body() -> None:
        with terminable():
            listen()
            entered.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert entered and signal.getsignal(signal.SIGTERM) is before


def task_error(text: str, cause: Exception) -> RayTaskError:
    return RayTaskError("f", text, cause)


NESTED = """ray::MapWorker(MapBatches(StageActor)).submit() (pid=7)
  File "actors.py", line 80, in _compute
ray.exceptions.RayTaskError(OSError): ray::LedgerActor.exchange() (pid=5)
  File "storage.py", line 300, in write_bytes
OSError: [Errno 28] No space left on device: 'runs/label/.ledger.json.7f'

The above exception was the direct cause of the following exception:

ray.exceptions.UserCodeException: UDF failed to process a data block."""


def test_what_storage_failed_of_is_found_in_what_ray_says() -> None:
    own = task_error("f()", PermissionError("denied"))
    assert of_machine(own) is own.cause
    found = of_machine(task_error(NESTED, RuntimeError("UDF failed")))
    assert str(found) == "[Errno 28] No space left on device: 'runs/label/.ledger.json.7f'"


def test_an_actor_that_could_not_load_is_found_in_what_ray_says() -> None:
    text = "ray::StageActor()\njobs.resources.loading.CannotLoadError: pools.1: a process died 3 times"
    found = of_machine(task_error(text, RuntimeError("creation failed")))
    assert isinstance(found, CannotLoadError) and str(found) == "pools.1: a process died 3 times"


@pytest.mark.parametrize(
    "error",
    [task_error("f()\nValueError: no such class", RuntimeError("UDF failed")), ActorDiedError()],
    ids=["user", "dead"],
)
def test_everything_else_is_not_the_machines(error: Exception) -> None:
    assert of_machine(error) is None
