"""Drills: one fault each, injected into a running lab, timed and judged. A module per family; a new one registers
its class here."""

from typing import Dict

from ovirt_he_ha.lab.drills import crashes, hands, moves, outages
from ovirt_he_ha.lab.drills.drill import Drill

DRILLS: Dict[str, Drill] = {drill.name: drill for family in (crashes, outages, moves, hands) for drill in family.DRILLS}
