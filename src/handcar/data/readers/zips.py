"""What a zip archive that is damaged, or made to deceive, raises when it is read."""

from __future__ import annotations

import zipfile
import zlib

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
