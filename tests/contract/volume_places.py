"""The volume cases' hosts: the simulator's doors, and the product's I/O workers over real storage."""

import os
import threading
import time
from pathlib import Path
from random import Random

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.sim.clock import SECOND, Scope, Timeline, ns
from ovirt_he_ha.sim.volume import Door, Trouble, Volume
from ovirt_he_ha.sim.volume import Path as Way
from ovirt_he_ha.storage.errors import StorageError
from ovirt_he_ha.storage.io_worker import IoWorker
from tests.contract.storage_view import StorageView

SLOT = 4096
SIZE = 2001 * SLOT


class Host:
    """One host's access: what was read, or the code of the refusal; "" for a good write."""

    def __init__(self, io):
        self.io = io

    def read(self, slot, count=1, deadline=5.0):
        try:
            data = self.io.read(slot * SLOT, count * SLOT, deadline)
            return data[0 : count * SLOT]
        except StorageError as error:
            return error.code
        finally:
            self.returned()

    def write(self, slot, data, deadline=5.0):
        try:
            self.io.write(slot * SLOT, data, deadline)
        except StorageError as error:
            return error.code
        finally:
            self.returned()
        return ""

    def late_writes(self):
        return list(self.io.late_writes())

    def returned(self): ...


# --- the model --------------------------------------------------------------------------------------------------------


class ModelHost(Host):
    def __init__(self, place, number):
        self.place = place
        self.way = Way(Random(number))
        super().__init__(Door(place.volume, self.way, place.timeline, number, Scope()))

    def returned(self):
        self.place.go(0)

    def error(self):
        self.way.trouble = Trouble(read_error="io", write_error="io")

    def take_away(self):
        self.way.trouble = Trouble(read_error="missing", write_error="missing")

    def slow(self, seconds):
        self.way.trouble = Trouble(latency=seconds)

    def hang(self, seconds):
        until = self.place.timeline.now + ns(seconds)
        self.way.trouble = Trouble(hang_reads_until=until, hang_writes_until=until)
        self.hangs_until = until

    def mend(self):
        """What hangs ends when it was said to: a hang of this model has its end from its beginning."""
        hangs = max(self.way.trouble.hang_reads_until, self.way.trouble.hang_writes_until)
        if hangs > self.place.timeline.now:
            self.place.timeline.run(hangs)
        self.way.trouble = Trouble()


class Model:
    def __init__(self):
        self.timeline = Timeline()
        self.volume = Volume()

    def host(self, number):
        return ModelHost(self, number)

    @property
    def now(self):
        return self.timeline.now / SECOND

    def go(self, seconds):
        self.timeline.run(self.timeline.now + self.timeline.lag + ns(seconds))

    def tear(self, slot, data, cut):
        self.volume.put(0, slot, data[:cut] + self.volume.get(slot)[cut:])

    def close(self): ...


# --- real storage -----------------------------------------------------------------------------------------------------


class RealHost(Host):
    def __init__(self, path, sector_size, view=None):
        self.view = view
        self.path = Path(path)
        self.end = None
        super().__init__(IoWorker(path, sector_size, SystemClock(1.0)))

    def error(self):
        self.view.set("error")

    def take_away(self):
        self.path.rename(f"{self.path}.away")

    def slow(self, seconds):
        self.view.set(f"slow {round(seconds * 1000)}")

    def hang(self, seconds):
        """Reads and writes wait, so that it is those that hang, and not the opening of the file before them."""
        self.view.set("slow 600000")
        if seconds < 5:  # ends by itself, in the middle of a call
            self.end = threading.Timer(seconds, self.view.set, ["ok"])
            self.end.start()

    def returned(self):
        if self.end is not None:
            self.end.join(10)
            self.end = None

    def mend(self):
        self.view.set("ok")
        away = Path(f"{self.path}.away")
        if away.exists():
            away.rename(self.path)

    def close(self):
        if self.view is not None:
            self.view.set("ok")
        self.io.close(2)
        if self.view is not None:
            self.view.close()


class Real:
    """A file under views of it, or ``device``: a block device of the same size."""

    def __init__(self, directory, view_program, device="", sector_size=512):
        self.directory = Path(directory)
        self.view_program = view_program
        self.device = device
        self.sector_size = sector_size
        self.hosts = []
        if not device:
            (self.directory / "data").mkdir()
            with open(self.directory / "data" / "volume", "wb") as file:
                file.write(bytes(SIZE))

    def host(self, number):
        if self.device:
            made = RealHost(self.device, self.sector_size)
        else:
            mountpoint = self.directory / f"host{number}"
            mountpoint.mkdir()
            view = StorageView(self.view_program, self.directory / "data", mountpoint)
            made = RealHost(str(mountpoint / "volume"), 512, view)
        self.hosts.append(made)
        return made

    @property
    def now(self):
        return time.monotonic()

    def go(self, seconds):
        time.sleep(seconds)

    def tear(self, slot, data, cut):
        with open(self.directory / "data" / "volume", "r+b") as file:
            file.seek(slot * SLOT)
            file.write(data[:cut])
            file.flush()
            os.fsync(file.fileno())

    def close(self):
        for host in self.hosts:
            host.close()
