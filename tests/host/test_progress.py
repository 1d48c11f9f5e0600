"""What a run says about how far it is."""

import io
from types import SimpleNamespace

import pytest

from jointdreamer.host.progress import Meter, RunProgress, duration


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (60, "1 min 00 s")]
    + [(187, "3 min 07 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_the_time_left_is_that_of_the_steps_left_without_the_first_ones_start_up():
    clock = Clock()
    meter = Meter(first=0, total=100, clock=clock)
    assert meter.seconds_left is None
    clock.now = 50.0  # loading, compiling
    meter.step(1)
    assert meter.seconds_left is None
    clock.now = 54.0
    meter.step(3)
    assert meter.seconds_left == pytest.approx(2.0 * 97)
    assert meter.line() == "step 3/100 (3 %), 54 s gone, 3 min 14 s left, 0.5 steps/s"


def test_a_resumed_run_counts_from_where_it_was():
    clock = Clock()
    meter = Meter(first=60, total=100, clock=clock)
    meter.step(61)
    clock.now = 9.0
    meter.step(70)
    assert meter.line() == "step 70/100 (70 %), 9.0 s gone, 30 s left, 1 steps/s"


def test_without_an_end_there_is_no_time_left():
    clock = Clock()
    meter = Meter(first=0, total=None, clock=clock)
    meter.step(1)
    clock.now = 2.0
    meter.step(2)
    assert meter.line() == "step 2, 2.0 s gone, 0.5 steps/s"


def trainer(max_steps=40, **more):
    base = {"global_step": 0, "max_steps": max_steps, "progress_bar_metrics": {"loss": 0.12345678}}
    base |= {"loggers": [], "num_test_batches": [3], "num_predict_batches": [3]}
    return SimpleNamespace(**(base | {"is_global_zero": True} | more))


def train(progress, run, steps):
    progress.setup(run, None, "fit")
    progress.on_train_start(run, None)
    for _ in range(steps):
        run.global_step += 1
        progress.on_train_batch_end(run, None, None, None, 0)
    progress.on_train_end(run, None)


def test_off_a_terminal_there_is_one_plain_line_for_each_tenth():
    stream = io.StringIO()
    train(RunProgress(stream), trainer(), 40)
    lines = stream.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == [f"{4 * i}/40" for i in range(1, 11)]
    assert all(line.startswith("train: step") and line.endswith(", loss 0.1235") for line in lines)
    assert all(" left, " in line for line in lines)
    assert not set(stream.getvalue()) & set("\r\x1b\x08")


def test_a_resumed_run_says_its_lines_at_the_same_steps():
    stream = io.StringIO()
    run = trainer(global_step=10)
    train(RunProgress(stream), run, 30)
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == [
        f"{4 * i}/40" for i in range(3, 11)
    ]


def test_the_last_step_always_has_its_line():
    stream = io.StringIO()
    train(RunProgress(stream), trainer(max_steps=7), 7)
    assert stream.getvalue().splitlines()[-1].startswith("train: step 7/7 (100 %)")


def test_without_an_end_there_is_a_line_every_hundred_steps():
    stream = io.StringIO()
    train(RunProgress(stream), trainer(max_steps=-1), 250)
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == ["100,", "200,"]


def test_on_a_terminal_there_is_a_bar_with_the_global_step():
    stream = io.StringIO()
    stream.isatty = lambda: True
    train(RunProgress(stream), trainer(global_step=10), 30)
    last = stream.getvalue().split("\r")[-1]
    assert "train: 100%" in last and "40/40" in last and "loss=0.1235" in last


def test_tests_and_exports_are_shown_too():
    stream = io.StringIO()
    progress, run = RunProgress(stream), trainer()
    for start, batch, end in (
        (progress.on_test_start, progress.on_test_batch_end, progress.on_test_end),
        (progress.on_predict_start, progress.on_predict_batch_end, progress.on_predict_end),
    ):
        start(run, None)
        for index in range(3):
            batch(run, None, None, None, index)
        end(run, None)
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["test:"] * 3 + ["export:"] * 3
    assert "view 3/3 (100 %)" in lines[-1]


def test_only_the_first_device_speaks():
    stream = io.StringIO()
    progress = RunProgress(stream)
    train(progress, trainer(is_global_zero=False), 40)
    progress.print("text")
    assert stream.getvalue() == ""
    progress.enable()
    progress.print("text", 1)
    assert stream.getvalue() == "text 1\n"
