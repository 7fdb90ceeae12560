"""`python -m fabula` is the command `fabula`.

For `-m` Python looks for modules in the working directory first. That is taken back before anything else is imported:
a folder of texts or a model's folder with a `torch.py` in it must not be able to run it. The command `fabula` never
looks there.
"""

import os
import sys

if __name__ == "__main__":
    try:
        if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
            del sys.path[0]
    except OSError:
        pass  # the working directory was deleted: nothing can be found there

    from fabula.cli.main import main

    main()
