"""The engine VM of the lab: its libvirt definition, and the vm.conf that the daemons read it from."""

import base64
from xml.sax.saxutils import escape

from ovirt_he_ha.lab.layout import BRIDGE, ENGINE_NAME, Lab
from ovirt_he_ha.lab.network import desk_address

MEMORY_MIB = 256
# It boots without a loader, and its console goes to a file that is on every host: agent.conf has to say so.
ELEMENTS = ("os/kernel", "os/initrd", "os/cmdline", "devices/emulator", "devices/serial")
MAC = "02:4e:aa:00:00:64"

# Plain emulation: KVM is not to be trusted because /dev/kvm is there. The kernel's arguments leave out what a guest
# of an hour's life does not need, each worth some hundred milliseconds of emulated boot.
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{vm}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{appliance}/vmlinuz</kernel>
    <initrd>{appliance}/initrd</initrd>
    <cmdline>{arguments}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <on_lockfailure>poweroff</on_lockfailure>
  <devices>
    <lease>
      <lockspace>{domain}</lockspace>
      <key>{volume}</key>
      <target path='{lease}' offset='0'/>
    </lease>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' error_policy='stop'/>
      <source file='{disk}'><seclabel model='dac' relabel='no'/></source>
      <target dev='vda' bus='virtio'/>
      <serial>{image}</serial>
    </disk>
    <interface type='bridge'>
      <mac address='{mac}'/>
      <source bridge='{bridge}'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='file'><source path='/var/log/engine/console.log' append='on'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def domain_xml(lab: Lab) -> str:
    ids = lab.identity
    arguments = f"console=ttyS0 quiet panic=-1 mitigations=off eng.ip={lab.engine_address}/24 eng.gw={lab.gateway}"
    arguments += f" eng.desk={desk_address(lab)}"
    if lab.boot_delay:
        arguments += f" eng.delay={lab.boot_delay:g}"
    values = {
        "name": ENGINE_NAME,
        "vm": ids.vm,
        "memory": str(MEMORY_MIB),
        "appliance": str(lab.appliance),
        "arguments": arguments,
        "domain": ids.domain,
        "volume": ids.disk.volume,
        "image": ids.disk.image[:20],
        "lease": str(lab.lease_path),
        "disk": str(lab.volume_path(ids.disk)),
        "mac": MAC,
        "bridge": BRIDGE,
    }
    return DOMAIN.format(**{key: escape(value) for key, value in values.items()})


def vm_conf(lab: Lab) -> str:
    """The member vm.conf of the configuration archive."""
    encoded = base64.b64encode(domain_xml(lab).encode()).decode()
    lines = [
        f"xmlBase64={encoded}",
        f"vmId={lab.identity.vm}",
        f"vmName={ENGINE_NAME}",
        "display=vnc",
        "emulatedMachine=pc",
        "smp=1",
        f"memSize={MEMORY_MIB}",
    ]
    return "\n".join(lines) + "\n"
