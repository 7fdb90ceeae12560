"""codecarbon, in a process of its own: `python -m fabula.energy.worker`, started by `account.py`.

It looks at the processor, the memory and the cards of the whole machine, without network, files or a lock. A message
{"stage": NAME} begins a stage and ends the one before; the answer is what that one used, in kWh.
"""

from __future__ import annotations

from typing import Any

from fabula.companion import Parent, first_line, leave
from fabula.energy.meter import INTERVAL


def main() -> None:
    """Measure stages until there are no more."""
    parent = Parent()
    job = parent.next() or {"end": True}
    if job.get("end"):
        return
    try:
        measure(parent, str(job["country"]))
    except Exception as error:
        parent.say(error=first_line(error))
    leave()


def measure(parent: Parent, country: str) -> None:
    """What the process does between its first message and its last."""
    import codecarbon

    tracker = codecarbon.OfflineEmissionsTracker(
        # Only its kWh are used; the CO2 of a kWh is looked up in our own table, so that it is the same without it.
        country_iso_code=country or "USA",
        measure_power_secs=INTERVAL,
        output_methods=[],
        allow_multiple_runs=True,
        log_level="critical",
    )
    parent.say(version=codecarbon.__version__)
    running = ""
    for message in parent.messages(3600.0, lambda: None):
        running = _switch(parent, tracker, running, str(message["stage"]))
    _switch(parent, tracker, running, "")
    parent.say(done=True)


def _switch(parent: Parent, tracker: Any, before: str, after: str) -> str:
    """End one stage, telling what it used, and begin the next."""
    if before:
        used = tracker.stop_task()
        parent.say(
            stage=before,
            seconds=used.duration,
            cpu=used.cpu_energy,
            gpu=used.gpu_energy,
            ram=used.ram_energy,
        )
    if after:
        tracker.start_task()
    return after


if __name__ == "__main__":
    main()
