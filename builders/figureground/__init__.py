"""Image-classification datasets whose foreground and background labels depend on each other as much as you choose.

from figureground import D3S, Spurious
D3S("pocket").build("out/d3s")
Spurious("pocket").build("out/spurious")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from figureground.methods.d3s import D3S
    from figureground.methods.spurious import Spurious

__version__ = "0.1.0"
__all__ = ["D3S", "Spurious", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports a builder when it is first asked for, so that `import figureground` loads no torch."""
    if name == "D3S":
        from figureground.methods.d3s import D3S

        return D3S
    if name == "Spurious":
        from figureground.methods.spurious import Spurious

        return Spurious
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
