"""The package and these benchmarks as an installation has them: copied and compiled.

From a checkout without compiled files every process would compile what it imports, at ten times the cost of a start
and with 3 MB more of memory; and what root compiles must not stay in the checkout.
"""

import atexit
import compileall
import shutil
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Dict

CHECKOUT = Path(__file__).resolve().parents[1]
_PACKAGES = ("ovirt_he_ha", "benchmarks")


@lru_cache(maxsize=1)
def tree() -> Path:
    """A directory with both packages; removed when this process ends. Raises SystemExit where they do not compile."""
    root = Path(tempfile.mkdtemp(prefix="he-bench-src-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for name in _PACKAGES:
        shutil.copytree(CHECKOUT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    # In this interpreter compileall would look where PYTHONPYCACHEPREFIX points.
    before, sys.pycache_prefix = sys.pycache_prefix, None
    try:
        if not compileall.compile_dir(root, quiet=2, workers=1):
            raise SystemExit(f"benchmark: {root}: not all of it compiles")
    finally:
        sys.pycache_prefix = before
    return root


def environment() -> Dict[str, str]:
    """What a process of the installation needs to import it; nothing is compiled any more."""
    return {"PYTHONPATH": str(tree()), "PYTHONDONTWRITEBYTECODE": "1"}


def unit_environment(daemon: str) -> Dict[str, str]:
    """What systemd's unit sets for ``agent`` or ``broker``; nothing for others."""
    unit = CHECKOUT / "systemd" / f"ovirt-ha-{daemon}.service"
    if not unit.exists():
        return {}
    lines = [line for line in unit.read_text().splitlines() if line.startswith("Environment=")]
    words = [word for line in lines for word in line.partition("=")[2].split()]
    return dict(word.split("=", 1) for word in words)
