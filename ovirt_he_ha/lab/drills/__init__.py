"""Drills: one fault each, injected into a running lab, timed and judged. A module per family; a new one registers
its class here."""

from typing import Dict

from ovirt_he_ha.lab.drills import crashes, doubles, guardians, hands, hangs, moves, networks, outages, storage
from ovirt_he_ha.lab.drills.drill import Drill

FAMILIES = (crashes, outages, moves, hands, hangs, guardians, networks, storage, doubles)
DRILLS: Dict[str, Drill] = {drill.name: drill for family in FAMILIES for drill in family.DRILLS}
