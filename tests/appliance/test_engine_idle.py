"""When an engine is idle: after so many seconds in which nothing was to be done and nothing was asked."""

from plugsky.engine.serving.idle import IdleClock


def test_it_runs_out_after_its_limit_and_not_before():
    clock = IdleClock(10.0, 100.0)
    assert not clock.has_run_out(109.9, busy=False)
    assert clock.has_run_out(110.0, busy=False)


def test_a_request_and_work_start_it_anew():
    clock = IdleClock(10.0, 100.0)
    clock.asked(105.0)
    assert not clock.has_run_out(111.0, busy=False)
    assert not clock.has_run_out(116.0, busy=True)
    assert not clock.has_run_out(125.0, busy=False)
    assert clock.has_run_out(126.0, busy=False)


def test_without_a_limit_it_never_runs_out():
    assert not IdleClock(None, 0.0).has_run_out(1e12, busy=False)
