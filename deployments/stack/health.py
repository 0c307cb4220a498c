"""Whether every address answers with a success, as an exit code: what containers ask, where no curl is installed.

python -m deployments.stack.health http://127.0.0.1:4200/api/health
"""

from __future__ import annotations

import sys

from deployments.stack.processes import answers_ok

if __name__ == "__main__":
    sys.exit(not all(answers_ok(url, 5.0) for url in sys.argv[1:]))
