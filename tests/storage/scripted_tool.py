#!/usr/bin/env python3
"""A tool of the system as a script: it is called by the tool's name, compares its arguments with the next step of the
script, plays that step's output, and takes the step away. Anything unexpected is written down and fails."""

import fcntl
import json
import os
import sys
import time

here = os.path.dirname(os.path.abspath(__file__))
name = os.path.basename(sys.argv[0])


def unexpected(text):
    with open(os.path.join(here, "unexpected"), "a") as file:
        file.write(text + "\n")
    sys.stderr.write(text + "\n")
    sys.exit(97)


def append(path, text):
    with open(path, "a") as file:
        file.write(text)


def drop(path, word):
    """Its lines with a word."""
    with open(path) as file:
        kept = [line for line in file if word not in line]
    with open(path, "w") as file:
        file.writelines(kept)


def move(source, target):
    """What is in a directory into another."""
    for each in os.listdir(source):
        os.rename(os.path.join(source, each), os.path.join(target, each))


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


# What a step changes in the test's world.
ACTS = {"append": append, "drop": drop, "move": move, "write": write, "sleep": time.sleep, "unlink": os.unlink}

with open(os.path.join(here, "steps.json"), "r+") as script:
    fcntl.flock(script, fcntl.LOCK_EX)
    steps = json.load(script)
    called = [name, *sys.argv[1:]]
    if set(os.environ) - {"PATH", "LC_ALL", "LVM_SUPPRESS_FD_WARNINGS", "PWD", "SHLVL", "_", "LC_CTYPE"}:
        unexpected(f"{called}: environment {sorted(os.environ)}")
    if not steps or steps[0]["argv"] != called:
        unexpected(f"called: {called}\nexpected: {steps[0]['argv'] if steps else 'nothing'}")
    step = steps.pop(0)
    script.seek(0)
    script.truncate()
    json.dump(steps, script)
for act, *words in step.get("do", ()):
    ACTS[act](*words)
sys.stdout.write(step.get("out", ""))
sys.stderr.write(step.get("err", ""))
sys.exit(step.get("status", 0))
