"""What is prepared once for all who send the same: where results are known by, kept, and waited for, in one hand.

Nothing is decided here; the path asks each part for what it is for.
"""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.arena.arena import Arena
from sidecar.media import DataType, DecodeTarget
from sidecar.recipes.recipe import Recipe
from sidecar.reuse.cache import CacheConfig, ResultCache
from sidecar.reuse.content import Address, Contents
from sidecar.reuse.flights import Flights


class Shared:
    """Kept results, and those under way, over one arena. To be closed by who made it."""

    def __init__(self, config: CacheConfig, arena: Arena) -> None:
        """Raises SettingsError as ResultCache does."""
        self.cache = ResultCache(config, arena)
        self.flights = Flights()
        self._contents = Contents()

    async def address(
        self,
        data: bytes | memoryview,
        recipe: Recipe,
        data_types: Mapping[str, DataType],
        target: DecodeTarget,
        tenant: str,
    ) -> Address | None:
        """What the result of an item is known by; None where results are not shared."""
        if not self.cache.enabled:
            return None
        return self._contents.address(await self._contents.digest(data), recipe, data_types, target, tenant)

    async def close(self) -> None:
        """Drops what is kept."""
        self.cache.close()
        await self._contents.close()
