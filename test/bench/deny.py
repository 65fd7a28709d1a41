#!/usr/bin/env python3
"""What a denied system call costs, and what recording denials costs at the start.

A call: `probe paced` makes denied calls of mount(2), in a burst and each alone
after a pause, under Purple with and without its audit, under strace(1), and in
a plain unit with SystemCallFilter= and, from systemd 247 on, SystemCallLog=. In
each round every contender has its turn, in random order; the figures are
medians over the rounds of the medians over the calls, in microseconds. The
limit is for the first two pauses: after the third one everybody's caches are
cold, and what the kernel does in any case takes ten times as long.

Start: how long it takes until date(1) says what time it is, and until it has
ended, under two profiles that differ in the audit only; the figures are the
medians of the paired differences, and the limit is for the first. Runs where
systemd is PID 1, as root, with bin/probe made.
Usage: deny.py [ROUNDS [START-ROUNDS]]
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.path.normpath(os.path.join(HERE, "..", "..", "bin"))
PURPLE, PROBE = os.path.join(BIN, "purple"), os.path.join(BIN, "probe")

CALL_LIMIT_US, START_LIMIT_MS = 25, 1
KINDS = {"burst": (5000, 0), "after 1 ms": (500, 1000), "after 10 ms": (100, 10000)}
LIMITED = ("burst", "after 1 ms")
AUDITED, SILENT = "audited", "silent"


def profile(directory, name, enabled):
    path = os.path.join(directory, name + ".yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"name: {name}\nextends: offline\nresources: {{cpu_shares: unlimited}}\naudit: {{enabled: {enabled}}}\n")
    return path


def run(command):
    done = subprocess.run(command, cwd=BIN, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: status {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def unit(*properties):
    return ["systemd-run", "--quiet", "--wait", "--pipe", "-p", "SystemCallErrorNumber=EPERM",
            *(x for p in properties for x in ("-p", p))]


def contenders(profiles):
    purple = {name: [PURPLE, "run", "--profile", profiles[name], "--"] for name in profiles}
    return {
        "purple, audit on": purple[AUDITED],
        "purple, audit off": purple[SILENT],
        "strace -f": ["strace", "-f", "-o", "/dev/null"],
        "SystemCallFilter=": unit("SystemCallFilter=~mount"),
        "SystemCallLog=": unit("SystemCallFilter=~mount", "SystemCallLog=mount"),
    }


def calls(profiles, rounds):
    entries = [(name, prefix, kind) for name, prefix in contenders(profiles).items() for kind in KINDS]
    medians = {}
    for _ in range(rounds):
        random.shuffle(entries)
        for name, prefix, kind in entries:
            n, pause = KINDS[kind]
            median = json.loads(run([*prefix, PROBE, "paced", str(n), str(pause)]))["median"]
            medians.setdefault(name, {}).setdefault(kind, []).append(median)
    return {name: {kind: statistics.median(all) for kind, all in kinds.items()} for name, kinds in medians.items()}


def start_once(profile):
    """Milliseconds until the command runs, and until it has ended."""
    begin = time.time_ns()
    started = int(run([PURPLE, "run", "--profile", profile, "--", "date", "+%s%N"]))
    return (started - begin) / 1e6, (time.time_ns() - begin) / 1e6


def starts(profiles, rounds):
    """What the audit adds to either, in milliseconds."""
    differences = []
    for i in range(-2, rounds):
        took = {name: start_once(profiles[name]) for name in random.sample(sorted(profiles), len(profiles))}
        if i >= 0:  # the first two rounds warm the caches
            differences.append([a - b for a, b in zip(took[AUDITED], took[SILENT])])
    return [statistics.median(d) for d in zip(*differences)]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    start_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    random.seed(0)
    with tempfile.TemporaryDirectory(prefix="purple-bench.", dir="/var/tmp") as directory:
        profiles = {name: profile(directory, name, enabled) for name, enabled in ((AUDITED, "true"), (SILENT, "false"))}
        measured = calls(profiles, rounds)
        more, to_the_end = starts(profiles, start_rounds)
    print(f"a denied system call, medians of {rounds} paired rounds, microseconds (limit {CALL_LIMIT_US})")
    print(f"{'':24}" + "".join(f"{kind:>14}" for kind in KINDS))
    for name, prefix in sorted(measured.items()):
        print(f"{name:24}" + "".join(f"{prefix[kind]:14.1f}" for kind in KINDS))
    print(f"start with the audit of system calls: {more:+.2f} ms (limit {START_LIMIT_MS}), {to_the_end:+.2f} to the end")
    worst = max(measured["purple, audit on"][kind] for kind in LIMITED)
    if worst > CALL_LIMIT_US or more > START_LIMIT_MS:
        sys.exit("over the limit")


main()
