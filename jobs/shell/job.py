"""What every job does before and after its work: arguments, the configuration, exit codes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from ray.exceptions import RayError

from anchornet.files import config as configuration
from jobs.resources.loading import CannotLoadError
from jobs.settings.help import settings_text
from jobs.shell.run_folder import RunFolder
from jobs.shell.stops import FolderTakenError, Terminated, of_machine, terminable
from jobs.shell.terminal import configure_logging, lines_of, say

T = TypeVar("T")
logger = logging.getLogger(__name__)

REFUSED, STORAGE_FAILED, INTERRUPTED, TERMINATED = 2, 3, 130, 143


def run_job(
    cls: type[T],
    execute: Callable[[T], int],
    doc: str | None,
    argv: Sequence[str] | None,
    flags: Sequence[str] = (),
    shorts: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """The exit code of a job: parse, validate, then ``execute(config)``.

    User errors (ValueError, a missing file) are one line on stderr and exit code 2; storage that fails, here or on a node,
    actors that cannot load, and a run folder in which another job works are 3; Ctrl-C is 130, SIGTERM 143; everything else
    propagates with its traceback.
    ``execute`` calls ``save_provenance`` once it has accepted the configuration.

    flags: names of top-level booleans that get a switch of their own (``--dry-run``). shorts: switches that take a value, and the
    setting that each stands for (``--shard 1/4``).
    """
    configure_logging()
    arguments = _parser(cls, doc, flags, shorts).parse_args(argv)
    switched = [f"{flag}=true" for flag in flags if getattr(arguments, flag)]
    switched += [f"{shorts[name]}={value}" for name in shorts if (value := getattr(arguments, name)) is not None]
    try:
        config = configuration.load_config(cls, arguments.config, [*arguments.set, *switched])
        with terminable(), lines_of(RunFolder(run.folder).name if (run := getattr(config, "run", None)) else ""):
            return execute(config)
    except (ValueError, FileNotFoundError) as error:
        logger.debug("refused", exc_info=True)
        say(f"error: {error}")
        return REFUSED
    except FolderTakenError as error:
        say(f"error: {error}")
        return STORAGE_FAILED
    except (OSError, RayError) as error:
        cause = of_machine(error) if isinstance(error, RayError) else error
        if cause is None:
            raise
        logger.debug("failed", exc_info=True)
        kind = "" if isinstance(cause, CannotLoadError) else f"{type(cause).__name__}: "
        say(f"error: {kind}{cause}; once this is mended, run the same command again")
        return STORAGE_FAILED
    except Terminated:
        say("ended by SIGTERM; run the same command again to go on")
        return TERMINATED
    except KeyboardInterrupt:
        say("interrupted; run the same command again to go on")
        return INTERRUPTED


def _parser(cls: type, doc: str | None, flags: Sequence[str], shorts: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=doc, epilog=settings_text(cls), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="YAML file, local or s3://")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", help="override one value")
    for flag in flags:
        parser.add_argument(f"--{flag.replace('_', '-')}", action="store_true", help=f"the same as --set {flag}=true")
    for name, setting in shorts.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"the same as --set {setting}=VALUE")
    return parser
