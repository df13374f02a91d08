"""One process beside a real sanlock daemon: it asks the daemon, or holds a lease, as it is told line by line (JSON).

Run as a program, with nothing of the product in it: it must start in a few hundredths of a second, and a holder is
killed by sanlock. Each answer says how long the call took, in wall seconds.
"""

import json
import os
import sys
import threading
import time

import sanlock

lock = threading.Lock()


def say(number, code, value, took):
    with lock:
        print(json.dumps([number, code, value, took]), flush=True)


def plain(value):
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


class Process:
    def __init__(self):
        self.descriptor = None

    def register(self):
        self.descriptor = sanlock.register()
        return os.getpid()

    def acquire(self, space, key, path):
        sanlock.acquire(space.encode(), key.encode(), [(path, 0)], slkfd=self.descriptor)

    def release(self, space, key, path):
        sanlock.release(space.encode(), key.encode(), [(path, 0)], slkfd=self.descriptor)

    def release_of(self, space, key, path, pid):
        """Another process's lease, as libvirt gives back the VM's when its CPUs have stopped."""
        sanlock.release(space.encode(), key.encode(), [(path, 0)], pid=pid)

    def join(self, space, host_id, path):
        sanlock.add_lockspace(space.encode(), host_id, path)

    def leave(self, space, host_id, path, unused):
        sanlock.rem_lockspace(space.encode(), host_id, path, unused=unused)

    def hosts(self, space):
        return plain(sanlock.get_hosts(space.encode()))

    def asked_for(self, space, host_id):
        """What is said of one host id, listed or not."""
        return plain(sanlock.get_hosts(space.encode(), host_id))

    def spaces(self):
        return plain(sanlock.get_lockspaces())

    def format(self, space, ids, key, path):
        sanlock.write_lockspace(space.encode(), ids)
        sanlock.write_resource(space.encode(), key.encode(), [(path, 0)])

    def read(self, path):
        """Waits in the kernel while the storage hangs."""
        with open(path, "rb", buffering=0) as file:
            file.read(512)


def run(process, number, name, arguments):
    begun = time.monotonic()
    try:
        value, code = getattr(process, name)(*arguments), 0
    except sanlock.SanlockException as error:
        value, code = str(error), error.args[0]
    except OSError as error:
        value, code = str(error), error.errno
    say(number, code, value, time.monotonic() - begun)


def main():
    process = Process()
    for line in sys.stdin:
        number, name, arguments = json.loads(line)
        threading.Thread(target=run, args=(process, number, name, arguments), daemon=True).start()


main()
