"""A training leaves out the cores that other processes keep busy."""

from __future__ import annotations

import pytest
import torch

from grace.system import threads


@pytest.fixture
def two_threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("GRACE_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def looks(monkeypatch, *idle):
    found = iter(idle)
    monkeypatch.setattr(threads, "idle_cores", lambda seconds: next(found))


@pytest.mark.parametrize(("idle", "expected"), [(2.0, 2), (1.6, 2), (1.4, 1), (0.9, 1), (0.0, 1), (64.0, 2)])
def test_as_many_threads_as_idle_cores(two_threads, monkeypatch, capsys, idle, expected):
    looks(monkeypatch, idle, idle, idle)
    assert threads.leave_busy_cores() == torch.get_num_threads() == expected
    assert ("adapt_threads" in capsys.readouterr().err) == (expected < 2)


def test_a_short_burst_is_no_busy_core(two_threads, monkeypatch):
    looks(monkeypatch, 0.3, 1.9, 0.2)
    assert threads.leave_busy_cores() == 2


def test_the_record_of_the_run_names_the_threads_in_use(two_threads, monkeypatch):
    from grace.records.provenance import environment

    looks(monkeypatch, 1.0, 1.0, 1.0)
    threads.leave_busy_cores()
    assert environment()["threads"] == "1"


def test_a_fixed_number_is_kept_without_a_look(two_threads, monkeypatch):
    monkeypatch.setenv("GRACE_THREADS", "fixed")
    looks(monkeypatch)  # a look would raise StopIteration
    assert threads.leave_busy_cores() == torch.get_num_threads() == 2


def test_one_thread_needs_no_look(two_threads, monkeypatch):
    looks(monkeypatch)
    torch.set_num_threads(1)
    assert threads.leave_busy_cores() == 1


def test_idle_cores_are_those_of_this_process(monkeypatch):
    monkeypatch.setattr(threads.psutil, "cpu_percent", lambda interval, percpu: [0.0, 100.0, 50.0, 0.0])
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: {1, 2, 3})
    assert threads.idle_cores(0.1) == pytest.approx(1.5)
