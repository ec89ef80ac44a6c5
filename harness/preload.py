"""What every step imports, imported once by the fork server: a child is then ready in 0.9 seconds, not 7.

Imports only. One parallel operation here would leave its threads behind in the fork, and the children would hang.
"""

import contextlib
import os

with open(os.devnull, "w") as silence:  # the server shares the terminal, and libraries grumble when imported
    kept = os.dup(2)
    os.dup2(silence.fileno(), 2)
    try:
        with contextlib.suppress(ImportError):
            pass
    finally:
        os.dup2(kept, 2)
        os.close(kept)
