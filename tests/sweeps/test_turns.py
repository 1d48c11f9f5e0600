"""Threads of which one runs at a time, and which are answered together."""

import random
import signal
import threading

import numpy as np
import pytest
import torch

from jointdreamer.sweeps.turns import Turns


def answer_all(waiting):
    for member in waiting:
        member.reply = [other.request for other in waiting]
    return waiting


def test_members_run_one_at_a_time_and_are_answered_together():
    running, seen = threading.Lock(), []
    turns = Turns(answer_all)

    def work_of(name, questions):
        def work(member):
            for number in range(questions):
                with running:  # would block for ever if two ran at a time
                    assert running.locked()
                seen.append((name, member.ask((name, number))))

        return work

    for name, questions in (("a", 2), ("b", 1), ("c", 3)):
        turns.add(work_of(name, questions))
    turns.run()
    first, second, third = [("a", 0), ("b", 0), ("c", 0)], [("a", 1), ("c", 1)], [("c", 2)]
    expected = [("a", first), ("b", first), ("c", first), ("a", second), ("c", second)]
    assert seen == [*expected, ("c", third)]


def test_a_member_that_fails_leaves_the_others_and_an_error_comes_where_was_asked():
    caught = []

    def answer(waiting):
        for member in waiting:
            member.reply = ValueError("no") if member.request == "bad" else "fine"
        return waiting

    def ask(member, request):
        try:
            caught.append(member.ask(request))
        except ValueError as error:
            caught.append(str(error))

    turns = Turns(answer)
    turns.add(lambda member: None)
    turns.add(lambda member: ask(member, "bad"))
    turns.add(lambda member: ask(member, "good"))
    turns.run()
    assert caught == ["no", "fine"] and all(member.over for member in turns.members)


def test_random_numbers_do_not_depend_on_who_runs_in_between():
    def draws(count):
        found = {}

        def work_of(seed):
            def work(member):
                torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
                for _ in range(3):
                    one = (torch.rand(1).item(), float(np.random.rand()), random.random())
                    found.setdefault(seed, []).append(one)
                    member.ask(None)

            return work

        turns = Turns(answer_all)
        for seed in range(count):
            turns.add(work_of(seed))
        turns.run()
        return found

    assert draws(3)[0] == draws(1)[0] and draws(3)[1] != draws(3)[0]


@pytest.fixture
def ctrl_c():
    """Ctrl-C as usual, also where the shell that started the tests has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_reaches_every_member(ctrl_c):
    ended = []

    def work(member):
        try:
            while True:
                member.ask(None)
        except KeyboardInterrupt:
            ended.append(member)

    def answer(waiting):
        signal.raise_signal(signal.SIGINT)
        return waiting

    turns = Turns(answer)
    for _ in range(3):
        turns.add(work)
    with pytest.raises(KeyboardInterrupt):
        turns.run()
    assert len(ended) == 3 and not any(member.is_alive() for member in turns.members)
