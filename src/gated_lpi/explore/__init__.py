"""`gated-lpi explore`: a local web app over a run, without torch.

Read `workspace` first, what is explored and what is made of it in the background; `arm`, one arm; `curves`, one unit's
history at once; `lives`, when units were in top sets. Each page is a file named after it (`overview`, `units`, `unit`,
`checkpoint`, `facts`, `fact` with what is `inside` a block, `compare`, `routing`): a function of the workspace and of
the address, which gives charts and tables (`view`, `sheet`). `app` serves them, `server` starts it.

    from gated_lpi import open_run
    from gated_lpi.explore import serve

    serve(open_run("runs/mine"))
"""

from gated_lpi.explore.app import create_app
from gated_lpi.explore.server import serve
from gated_lpi.explore.workspace import Workspace

__all__ = ["Workspace", "create_app", "serve"]
