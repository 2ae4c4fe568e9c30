"""The command ``tileconv``, and ``python -m tileconv``: a line when it fails, an exit code."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from typing import NoReturn

from tileconv import ending, stopping
from tileconv.errors import ConfigError, MemoryCapError, StorageError, TileconvError
from tileconv.stopping import Stopped


def main() -> NoReturn:
    """Listen for signals before anything else is imported, then run the command line."""
    ending.open_streams()
    try:
        _run_command()
        code = 0
    except BaseException as error:  # noqa: BLE001 - the last line of defence
        code, message = _explained(error)
        if "--debug" in sys.argv:
            import traceback

            with contextlib.suppress(OSError):
                traceback.print_exc()
        _flush()
        ending.last_line(code, message)
    _flush()
    ending.leave(code)


def _run_command() -> None:
    """Run what the arguments say; afterwards signals no longer raise, and have raised."""
    try:
        stopping.listen()
        if "--debug" not in sys.argv:
            _silence_libraries()
        from tileconv.cli import cli

        cli.main(prog_name="tileconv", standalone_mode=False)
    except BaseException:
        stopping.hold()
        # Whatever its exception has become on its way here.
        stopping.check()
        raise
    stopping.hold()


def _silence_libraries() -> None:
    """Keep warnings and logs of libraries, which are for those who call them, off stderr."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())


def _explained(error: BaseException) -> tuple[int, str]:
    """The exit code of what happened, and what is said about it."""
    match error:
        case TileconvError():
            return error.exit_code, str(error)
        case Stopped():
            return error.exit_code, error.told
        case MemoryError():
            told = f"the system gave no more memory: {str(error) or 'none was left'}"
            return MemoryCapError.exit_code, f"{told}; let this process have more"
        case OSError():
            return StorageError.exit_code, f"{error}; --debug shows where that was"
        case SystemExit():  # What click makes of a pipe that broke.
            return StorageError.exit_code, "nobody reads stdout; redirect it to somebody who does"
    told = f"a bug in tileconv: {type(error).__name__}: {error}"
    asked = "run again with --debug and report what it prints"
    return _mistake(error) or (TileconvError.exit_code, f"{told}; {asked}")


def _mistake(error: BaseException) -> tuple[int, str] | None:
    """What click says of wrong arguments; None for any other error."""
    import click

    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return ConfigError.exit_code, "a command is missing; --help says which there are"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        said = error.format_message().rstrip(".")
        return ConfigError.exit_code, f"{said}; see {error.ctx.command_path} --help"
    if isinstance(error, click.ClickException):
        return ConfigError.exit_code, error.format_message()
    return None


def _flush() -> None:
    """Hand over what was printed, if there is anybody to take it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):
            stream.flush()


if __name__ == "__main__":
    main()
