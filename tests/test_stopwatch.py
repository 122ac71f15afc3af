import time

from flowrank.stopwatch import seconds_taken


def test_the_whole_call_is_timed_once():
    calls = []

    def call():
        calls.append(None)
        time.sleep(0.02)

    assert 0.02 <= seconds_taken(call) < 2.0
    assert len(calls) == 1
