"""Signals: a lost exception is found again, a second signal ends the process."""

import os
import signal

import pytest

from tileconv import stopping
from tileconv.stopping import Stopped


@pytest.fixture(autouse=True)
def listening(monkeypatch):
    monkeypatch.setattr(stopping._Record, "number", None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stopping.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_whose_exception_was_swallowed_is_raised_again(number):
    stopping.check()
    with pytest.raises(Stopped):
        os.kill(os.getpid(), number)
    # As if a foreign callback had swallowed it.
    with pytest.raises(Stopped) as caught:
        stopping.check()
    assert caught.value.exit_code == 128 + number
    assert str(caught.value) == number.name


def test_a_second_signal_ends_the_process_at_once(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    for _ in range(2):
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
    assert codes == [130]


def test_it_is_no_keyboard_interrupt():
    """An interpreter that saw one end a frame kills itself by SIGINT, whatever the exit code."""
    assert not issubclass(Stopped, KeyboardInterrupt | Exception)
