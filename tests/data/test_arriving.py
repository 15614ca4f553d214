import os
import signal
import threading
import time

import pytest

from qwen_ner.data.arriving import Arriving


def test_chunks_are_whole_where_nothing_pauses_and_end_where_it_does():
    more = threading.Event()

    def items():
        yield from range(10)
        more.wait(30)
        yield 10

    arriving = Arriving(items())
    assert arriving.chunk(4) == [0, 1, 2, 3]
    assert next(arriving) == 4
    assert arriving.chunk(100) == [5, 6, 7, 8, 9]
    more.set()
    assert arriving.chunk(100) == [10]
    assert arriving.chunk(100) == arriving.chunk(100) == []


def test_a_chunk_ends_in_a_stream_that_never_pauses():
    def items():
        while True:
            time.sleep(0.02)
            yield 1

    arriving = Arriving(items())
    start = time.monotonic()
    assert 5 < len(arriving.chunk(500)) < 60
    assert time.monotonic() - start < 3


def test_an_interrupt_within_a_chunk_is_not_lost(monkeypatch):
    arriving = Arriving(iter("ab"))
    take = arriving._take

    def interrupted(timeout):
        if timeout is not None:  # while the second item is waited for
            raise KeyboardInterrupt
        return take(timeout)

    monkeypatch.setattr(arriving, "_take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        arriving.chunk(5)


def test_no_more_is_read_than_is_asked_for_but_one():
    read = []
    arriving = Arriving(read.append(n) or n for n in range(100))
    time.sleep(0.05)
    assert read == []
    assert arriving.chunk(3) == [0, 1, 2]
    time.sleep(0.05)
    assert len(read) == 4


def test_an_error_comes_behind_what_was_read_before_it():
    def items():
        yield 1
        raise ValueError("two")

    arriving = Arriving(items())
    assert arriving.chunk(5) == [1]
    with pytest.raises(ValueError, match="two"):
        arriving.chunk(5)


def test_a_signal_ends_the_wait_for_a_stream_that_never_comes(monkeypatch):
    def items():
        yield 1
        threading.Event().wait()

    arriving = Arriving(items())
    before = signal.signal(signal.SIGTERM, lambda *_: arriving.stop())
    try:
        assert arriving.chunk(5) == [1]
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert arriving.chunk(5) == []
        assert arriving.stopped
    finally:
        signal.signal(signal.SIGTERM, before)
