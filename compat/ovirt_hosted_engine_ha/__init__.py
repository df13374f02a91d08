"""ovirt-he-ha's client under the import path that other programs know. Nothing else of oVirt's package is here."""

from ovirt_hosted_engine_ha import neighbours

neighbours.refuse()
