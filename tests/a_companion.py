"""The other side of test_companion.py: `python -m tests.a_companion` does what its job says."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from fabula.companion import Parent, first_line, leave


def main() -> None:
    parent = Parent(grace=0.5)
    job = parent.next() or {}
    doing = job.get("do")
    if doing == "die":
        os._exit(7)
    if doing == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        parent.say(child=child.pid)
        time.sleep(600)
    if doing == "talk":
        # What a library prints, in whatever way, must not get between the answers.
        print('{"answer": "a print"}', flush=True)
        os.write(1, b'{"answer": "a raw write"}\n')
        try:
            input("Your key? ")
        except EOFError as error:
            parent.say(asked=first_line(error))
        try:
            os.close(os.open("/dev/tty", os.O_RDWR))
            parent.say(terminal=True)
        except OSError:
            parent.say(terminal=False)
    for message in parent.messages(0.1, lambda: None):
        parent.say(answer=message["value"])
    parent.say(done=True)
    leave()


if __name__ == "__main__":
    main()
