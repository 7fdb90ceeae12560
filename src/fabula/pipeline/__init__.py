"""The stages of a recipe in order, from text to a trained model and its report.

    recipes.py   which recipe is meant?
    identity.py  is it the same run?
    planning.py  what would it take?
    work.py      the stages in order
    runs.py      how does a run begin, and how does it go on?

Where a launcher has started several processes, they train together: the first one does everything else, and the others
wait for it.
"""

from fabula.checkpoint import RUNS
from fabula.pipeline.identity import completed, differences, settings_that_matter
from fabula.pipeline.planning import plan
from fabula.pipeline.recipes import choices, load, load_or_choose, told
from fabula.pipeline.runs import check_fit, prepare, resume, run
from fabula.pipeline.work import RunResult, check_stride

__all__ = [
    "RUNS",
    "RunResult",
    "check_fit",
    "check_stride",
    "choices",
    "completed",
    "differences",
    "load",
    "load_or_choose",
    "plan",
    "prepare",
    "resume",
    "run",
    "settings_that_matter",
    "told",
]
