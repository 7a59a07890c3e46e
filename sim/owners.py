"""What `Policy.owners` says of a cell that is no single sequence's."""

from __future__ import annotations

from typing import Final

FREE: Final = -1
SHARED: Final = -2
"""Several sequences hold it."""
UNUSED: Final = -3
"""Set aside, or no token in it is attended to any more."""
