"""A configuration archive with a definition that the agent accepts; nothing here is ever started."""

import base64
from typing import Dict

from ovirt_he_ha.core.model import LeaseId

_DOMAIN = """\
<domain type='qemu'>
  <name>HostedEngine</name>
  <uuid>{vm}</uuid>
  <memory unit='MiB'>4096</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <on_lockfailure>poweroff</on_lockfailure>
  <devices>
    <lease>
      <lockspace>{lease.lockspace}</lockspace>
      <key>{lease.key}</key>
      <target path='{lease.path}' offset='{lease.offset}'/>
    </lease>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' error_policy='stop'/>
      <source file='{disk}'><seclabel model='dac' relabel='no'/></source>
      <target dev='vda' bus='virtio'/>
      <serial>disk</serial>
    </disk>
  </devices>
</domain>
"""


def members(vm: str, lease: LeaseId, disk: str) -> Dict[str, bytes]:
    xml = _DOMAIN.format(vm=vm, lease=lease, disk=disk)
    lines = [
        f"xmlBase64={base64.b64encode(xml.encode()).decode()}",
        f"vmId={vm}",
        "vmName=HostedEngine",
        "memSize=4096",
    ]
    found = dict.fromkeys(("version", "fhanswers.conf", "hosted-engine.conf", "broker.conf"), b"x=1\n")
    return {**found, "vm.conf": ("\n".join(lines) + "\n").encode()}
