"""The life of an engine: each step of the machine, and what holds over every order of events an edge can see."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugsky.core.processes import pause_s
from plugsky.engine.life.lifecycle import (
    Admit,
    Await,
    BackoffOver,
    Calm,
    Exited,
    GiveUp,
    Idle,
    ImpossibleEventError,
    Life,
    Loaded,
    LoadFailed,
    Retire,
    Spawn,
    Spawned,
    SpawnFailed,
    Terminate,
    Wait,
    Watch,
    step,
)

STEPS = {
    "an admitted model is started": (Life(), Admit(), "admitted", (Spawn(),)),
    "a started process loads": (Life("admitted"), Spawned(7), "loading", ()),
    "a loaded model is ready": (Life("loading", 7), Loaded(), "ready", ()),
    "a failed load is no crash": (Life("loading", 7), LoadFailed("it is no GGUF"), "absent", ()),
    "admitting again ends the process that failed to load": (Life("absent", 7), Admit(), "admitted", (Terminate(),)),
    "its end starts another": (Life("admitted", 7), Exited("ended"), "admitted", (Spawn(),)),
    "a crash is restarted after a pause": (Life("ready", 7), Exited("was killed"), "crashed", (Wait(0.5),)),
    "a process that cannot be started is tried again": (Life("admitted"), SpawnFailed("no"), "crashed", (Wait(0.5),)),
    "one that never can be is given up": (
        Life("crashed", crashes=2, load_crashes=2),
        SpawnFailed("no"),
        "crashed",
        (GiveUp(),),
    ),
    "the next pause is longer": (Life("suspect", 7, crashes=1), Exited("was killed"), "crashed", (Wait(1.0),)),
    "after the pause it is started": (Life("crashed", crashes=1), BackoffOver(), "crashed", (Spawn(),)),
    "after a crash it is suspect": (Life("loading", 7, crashes=1), Loaded(), "suspect", (Watch(60.0),)),
    "calm forgives the crash": (Life("suspect", 7, crashes=1), Calm(), "ready", ()),
    "a model that kills its process is given up": (
        Life("loading", 7, crashes=2, load_crashes=2),
        Exited("was killed by SIGABRT"),
        "crashed",
        (GiveUp(),),
    ),
    "crashes while serving do not count as crashes while loading": (
        Life("loading", 7, crashes=5, load_crashes=0),
        Exited("was killed"),
        "crashed",
        (Wait(16.0),),
    ),
    "a model given up can be admitted again": (
        Life("crashed", crashes=3, load_crashes=3),
        Admit(),
        "admitted",
        (Spawn(),),
    ),
    "a retiring engine is asked to end": (Life("ready", 7), Retire(), "retiring", (Terminate(),)),
    "its end is no crash": (Life("retiring", 7), Exited("ended"), "absent", ()),
    "retiring in a pause ends it at once": (Life("crashed", crashes=1), Retire(), "absent", ()),
    "retiring while loading ends the process": (Life("loading", 7), Retire(), "retiring", (Terminate(),)),
    "an engine that retires by itself is retiring": (Life("ready", 7), Idle(), "retiring", ()),
    "its end is awaited by nobody but who connects": (
        Life("retiring", 7, idle=True),
        Exited("x"),
        "absent",
        (Await(),),
    ),
    "who connects has it started again": (Life("absent", idle=True), Admit(), "admitted", (Spawn(),)),
    "one that retires by itself can still be ended": (
        Life("retiring", 7, idle=True),
        Retire(),
        "retiring",
        (Terminate(),),
    ),
    "one that is absent because it was idle is not started again after it was retired": (
        Life("absent", idle=True),
        Retire(),
        "absent",
        (),
    ),
    "an engine that retires because it was asked to is not idle": (Life("retiring", 7), Idle(), "retiring", ()),
    "news of a process on its way out is ignored": (Life("retiring", 7), Loaded(), "retiring", ()),
}


@pytest.mark.parametrize(("life", "event", "state", "effects"), STEPS.values(), ids=STEPS.keys())
def test_a_step_of_the_machine(life, event, state, effects):
    after, wanted = step(life, event)
    assert (after.state, wanted) == (state, effects)


SETTLED = {
    "it serves": (Life("ready", 7), True),
    "it serves after a crash": (Life("suspect", 7, crashes=1, problem="it was killed"), True),
    "it refused its model": (Life("absent", 7, problem="it is no GGUF"), True),
    "it is given up": (Life("crashed", crashes=3, load_crashes=3, problem="it was killed"), True),
    "it was idle": (Life("absent", idle=True), True),
    "it is loading": (Life("loading", 7), False),
    "it pauses after its first crash": (Life("crashed", crashes=1, load_crashes=1, problem="it was killed"), False),
    "it is loading again": (Life("loading", 7, crashes=1, load_crashes=1, problem="it was killed"), False),
}


@pytest.mark.parametrize(("life", "settled"), SETTLED.values(), ids=SETTLED.keys())
def test_a_life_is_settled_when_nothing_more_comes_by_itself(life, settled):
    assert life.settled is settled


def test_calm_starts_the_count_of_crashes_anew():
    life, _ = step(Life("suspect", 7, crashes=4, problem="the engine was killed"), Calm())
    assert (life.crashes, life.problem) == (0, "")


def test_admitting_a_model_that_was_given_up_starts_its_counts_anew():
    life, _ = step(Life("crashed", crashes=3, load_crashes=3, restarts=2), Admit())
    assert (life.crashes, life.load_crashes, life.restarts) == (0, 0, 2)


def test_pauses_double_up_to_half_a_minute():
    assert [pause_s(n) for n in (1, 2, 3, 4, 7, 2000)] == [0.5, 1.0, 2.0, 4.0, 30.0, 30.0]


def test_an_event_that_cannot_happen_is_the_edges_fault():
    with pytest.raises(ImpossibleEventError, match="Spawned in state ready"):
        step(Life("ready", 7), Spawned(8))


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["admit", "retire", "load", "refuse", "idle", "exit", "timer", "no room"]), max_size=40)
)
def test_an_edge_that_tells_the_truth_never_has_two_processes_and_never_meets_an_impossible_event(happenings):
    life, running, timer, pids, room = Life(), 0, None, 0, True

    def tell(event):
        nonlocal life, running, timer, pids
        life, effects = step(life, event)
        for effect in effects:
            if isinstance(effect, Spawn):
                assert not running
                timer = None
                if room:
                    pids += 1
                    running = pids
                    tell(Spawned(pids))
                else:
                    tell(SpawnFailed("no room"))
            elif isinstance(effect, Wait):
                timer = BackoffOver()
            elif isinstance(effect, Watch):
                timer = Calm()
            elif isinstance(effect, Terminate):
                assert running

    for happening in happenings:
        if happening == "no room":
            room = not room
        elif happening == "admit":
            tell(Admit())
        elif happening == "retire":
            tell(Retire())
        elif happening == "load" and running and life.state == "loading":
            tell(Loaded())
        elif happening == "refuse" and running and life.state == "loading":
            tell(LoadFailed("no"))
        elif happening == "idle" and running and life.state in ("loading", "ready", "suspect", "retiring"):
            tell(Idle())
        elif happening == "exit" and running:
            running, timer, idle = 0, None, life.idle
            tell(Exited("was killed"))
            assert not idle or (life.state, life.crashes) == ("absent", 0)
        elif happening == "timer" and timer is not None:
            fired, timer = timer, None
            tell(fired)
        assert life.pid == running
        assert not life.serves or running
