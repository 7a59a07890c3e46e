"""The ends of all steps of a run, one by one."""

from numpy.typing import NDArray

from sim.recorder import Recorder
from sim.step_times import StepTimes


def ends_of(recorder: Recorder) -> NDArray:
    """Seconds, shape (steps,)."""
    return StepTimes(recorder.log).ends_between(0, recorder.log.steps)
