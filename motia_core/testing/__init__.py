"""The compliance suite: what proves that a backend keeps the clauses of SEMANTICS.

In a test module of your backend::

    from motia_core.testing import *  # the test classes, and the fixture `world`

    @pytest.fixture
    async def harness() -> AsyncGenerator[Harness, None]: ...

``motia-core new-adapter NAME`` writes all of it. The suite follows the version of
motia-core: a new test for a clause that was there before is a minor version, a new or
changed clause a major one; pin ``motia-core~=X.Y`` and see what a newer one finds.
"""

from motia_core.testing.data import Data as TestData
from motia_core.testing.durable import Triggers as TestTriggers
from motia_core.testing.fixtures import world
from motia_core.testing.foreign import Foreign as TestForeign
from motia_core.testing.harness import Cannot, ExpectedFailure, Harness, Reader, World, eventually, read_log
from motia_core.testing.history import check_history
from motia_core.testing.machine import Machine as TestMachine
from motia_core.testing.order import Order as TestOrder
from motia_core.testing.queues import Queues as TestQueues
from motia_core.testing.races import Races as TestRaces
from motia_core.testing.reads import Reads as TestReads
from motia_core.testing.subscribers import Resilience as TestResilience
from motia_core.testing.subscribers import Subscribers as TestSubscribers
from motia_core.testing.trouble import Trouble as TestTrouble
from motia_core.testing.wandering import Wandering as TestWandering

__all__ = [
    "Cannot",
    "ExpectedFailure",
    "Harness",
    "Reader",
    "TestData",
    "TestForeign",
    "TestMachine",
    "TestOrder",
    "TestQueues",
    "TestRaces",
    "TestReads",
    "TestResilience",
    "TestSubscribers",
    "TestTriggers",
    "TestTrouble",
    "TestWandering",
    "World",
    "check_history",
    "eventually",
    "read_log",
    "world",
]
