import signal
import threading

import pytest

from spacy_elmo.pretraining.process import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_asks_to_stop_once_and_stops_the_second_time(number):
    caught = []
    before = signal.signal(number, lambda *_: caught.append(number))
    try:
        with stop_on_signals() as request:
            assert not request
            signal.raise_signal(number)
            assert request
            assert caught == []
            signal.raise_signal(number)
            assert caught == [number]
        signal.raise_signal(number)
        assert caught == [number, number]
    finally:
        signal.signal(number, before)


def test_handlers_are_put_back_also_behind_an_error():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def fail():
        with stop_on_signals():
            assert signal.getsignal(signal.SIGTERM) is not before[1]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_other_threads_get_a_request_that_stays_false():
    found = []

    def work():
        with stop_on_signals() as request:
            found.append(bool(request))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
