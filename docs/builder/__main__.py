"""``python -m docs.builder``: build the site into build/site."""

import sys
from pathlib import Path

from docs.builder.site import SiteError, build

ROOT = Path(__file__).resolve().parents[2]

try:
    index = build(ROOT, ROOT / "build")
except SiteError as error:
    sys.exit(f"error: {error}")
sys.stdout.write(f"{index}\n")
