"""Pools of threads that outlive a call."""

import gc
import threading
import time

import pytest

from skpspc._threads import ThreadPool


def own_thread(barrier=None):
    """Return the thread; with a barrier, every thread of a pool has to call it."""
    if barrier is not None:
        barrier.wait(10)
    return threading.current_thread()


def threads_of_pool(n):
    """Return the threads of the pool of n threads."""
    barrier = threading.Barrier(n)
    with ThreadPool(n) as pool:
        return set(pool.map(own_thread, [barrier] * n))


def in_a_thread(function, *args):
    """Result of a function in a new thread, which has ended."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*args)))
    thread.start()
    thread.join()
    return results[0]


def test_threads_serve_several_pools():
    first = threads_of_pool(3)
    assert len(first) == 3 and threading.current_thread() not in first
    assert threads_of_pool(3) == first
    with ThreadPool(3) as outer, ThreadPool(3) as inner:
        assert {outer.submit(own_thread).result(), inner.submit(own_thread).result()} <= first


def test_every_caller_has_its_own_threads():
    """Callers that ask for one thread each must not wait for one another."""
    own = threads_of_pool(1)
    barrier = threading.Barrier(2)

    def call():
        with ThreadPool(1) as pool:
            return pool.submit(own_thread, barrier).result()

    with ThreadPool(2) as callers:
        others = [future.result(10) for future in [callers.submit(call) for _ in range(2)]]
    assert len({*own, *others}) == 3


def test_threads_end_with_their_caller():
    before = set(threading.enumerate())
    in_a_thread(threads_of_pool, 3)
    gc.collect()
    end = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_the_end_waits_for_all_calls():
    calls = []
    with ThreadPool(1) as pool:
        pool.submit(time.sleep, 0.05)
        for i in range(3):
            pool.submit(calls.append, i)
    assert calls == [0, 1, 2]


def test_an_exception_cancels_calls_and_waits_for_those_that_run():
    begun, leave, calls = threading.Event(), threading.Event(), []

    def work(i):
        calls.append(i)
        begun.set()
        leave.wait(10)
        calls.append("end")

    def interrupted():
        with ThreadPool(1) as pool:
            for i in range(5):
                pool.submit(work, i)
            begun.wait(10)
            threading.Timer(0.1, leave.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert calls == [0, "end"]
    assert len(threads_of_pool(1)) == 1  # the next pool works


def test_errors_of_calls_are_raised():
    def fail():
        raise ValueError("of a call")

    with pytest.raises(ValueError, match="of a call"), ThreadPool(2) as pool:
        pool.submit(fail).result()
