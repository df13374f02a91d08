"""For all tests. What a shell starts in its background inherits an ignored Ctrl-C, and so does all that it starts: the
commands under test answer it as where somebody sits at a terminal."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
