"""Names in ``Carried.notes``: moments (monotonic seconds) that only the policy reads."""

SEEN_HERE = "seen-here"  # the VM was last seen on this host; its end is not accounted for yet
RESTART_AT = "restart-at"  # same-host restart after a crash, not before this
CRASH_BACKOFF = "crash-backoff"  # RESTART_AT is the back-off of a host without an eligible peer
GUEST_OFF = "guest-off"  # the guest was last shut down from inside, here
LOST_RACE = "lost-race-until"  # the lease was somebody else's: no start before this
STARTED = "started"  # our START returned OK; its VM has not been seen yet
EXIT_KNOWN = "exit-known"  # the last end of the VM here, as reported when our START was ordered
MOVED = "moved"  # our migration returned OK; the VM may still be seen here
AWAY = "away"  # the VM migrated away; `Migration Source` is published from then on
POWERED_OFF = "power-off-at"  # POWER_OFF was ordered
CLAIM = "claim-"  # + host id: since when that peer publishes that it is starting the VM
