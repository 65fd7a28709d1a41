#!/usr/bin/env python3
"""What the audit costs a command that is denied next to nothing: a build.

A folder of C files is compiled, one gcc after the other, under Purple with and
without its audit. A build varies from one to the next by more than the audit
costs: in each round both have two turns, in the order one, other, other, one,
and the ratio is the median of the rounds'. How far that is to be trusted is said
by the medians of rounds drawn from these at random, again and again (bootstrap).

In every tenth round the others have a turn, too, to compare with: an audit that
has each open looked at, no sandbox, strace(1), and a plain unit with the same
group of system calls allowed and the others logged.

Runs where systemd is PID 1, as root, with gcc there.
Usage: build.py [ROUNDS [FILES]]
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PURPLE = os.path.normpath(os.path.join(HERE, "..", "..", "bin", "purple"))

RATIO_LIMIT = 1.03
OTHERS_EVERY = 10  # rounds
AUDITED, SILENT = "purple, audit on", "purple, audit off"
BUILD = "for f in *.c; do gcc -O1 -c -o /tmp/$f.o $f || exit 1; done"


def profile(directory, enabled):
    path = os.path.join(directory, f"audit-{enabled}.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"extends: ai-dev-safe\nnetwork: {{isolated: true}}\nresources: {{cpu_shares: unlimited}}\naudit: {{enabled: {enabled}}}\n")
    return path


def reading_profile(directory):
    """One that also records refused reads: each open waits for a look."""
    output = os.path.join(directory, "output")
    os.mkdir(output)
    path = os.path.join(directory, "reads.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write("extends: ai-dev-safe\nnetwork: {isolated: true}\nresources: {cpu_shares: unlimited}\n"
                f"filesystem: {{output_paths: [{{host_path: {output}, sandbox_path: /output}}]}}\n"
                "audit: {detail_level: [syscall, filesystem, reads, resource]}\n")
    return path


def write_sources(directory, files):
    for i in range(files):
        with open(os.path.join(directory, f"f{i}.c"), "w", encoding="utf-8") as f:
            f.write("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n")
            for j in range(40):
                f.write(f"int f{i}_{j}(int n) {{ char *s = malloc(n); memset(s, {j}, n); int r = s[n / 2]; free(s); return r * printf(\"%d\", n); }}\n")


def contenders(directory):
    shell = ["sh", "-c", BUILD]
    unit = ["systemd-run", "--quiet", "--wait", "--pipe", "--same-dir", "-p", "SystemCallErrorNumber=EPERM",
            "-p", "SystemCallFilter=@system-service", "-p", "SystemCallLog=~@system-service"]
    purple = [PURPLE, "run", "--profile"]
    return {
        SILENT: [*purple, profile(directory, "false"), "--", *shell],
        AUDITED: [*purple, profile(directory, "true"), "--", *shell],
        "purple, reads, too": [*purple, reading_profile(directory), "--", *shell],
        "no sandbox": shell,
        "SystemCallLog=": [*unit, *shell],
        "strace -f": ["strace", "-f", "-o", "/dev/null", *shell],
    }


def once(command, cwd):
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    took = time.perf_counter() - begin
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: status {done.returncode}: {done.stderr.decode(errors='replace')}")
    return took


def measure(rounds, files):
    """The times of each contender, and for each round how often as long the audit took."""
    with tempfile.TemporaryDirectory(prefix="purple-bench.") as profiles, tempfile.TemporaryDirectory(prefix="purple-bench.") as sources:
        os.chmod(sources, 0o755)
        write_sources(sources, files)
        commands = contenders(profiles)
        others = [name for name in commands if name not in (AUDITED, SILENT)]
        times = {name: [] for name in commands}

        def turn(name):
            took = once(commands[name], sources)
            times[name].append(took)
            return took

        once(commands[AUDITED], sources)  # warms the caches
        ratios = []
        for i in range(rounds):
            outer, inner = random.sample((AUDITED, SILENT), 2)
            took = {AUDITED: 0.0, SILENT: 0.0}
            for name in (outer, inner, inner, outer):
                took[name] += turn(name)
            ratios.append(took[AUDITED] / took[SILENT])
            if i % OTHERS_EVERY == 0:
                for name in others:
                    turn(name)
        return times, ratios


def interval(ratios):
    """Within which 95 of 100 medians lie of as many rounds drawn from these."""
    medians = sorted(statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[50], medians[-51]


def percent(ratio):
    return f"{100 * (ratio - 1):+.1f}%"


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    files = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    random.seed(0)
    times, ratios = measure(rounds, files)
    silent = statistics.median(times[SILENT])
    print(f"a build of {files} C files, median seconds, {rounds} rounds of two turns each; of the others fewer turns")
    for name, took in times.items():
        print(f"  {name:20}{statistics.median(took):8.3f}   {percent(statistics.median(took) / silent)}   {len(took)} turns")
    share, (low, high) = statistics.median(ratios), interval(ratios)
    good = share <= RATIO_LIMIT
    print(f"  the audit's share: {percent(share)}, 95% of medians from {percent(low)} to {percent(high)} (at most {percent(RATIO_LIMIT)})" + ("" if good else "   TOO MUCH"))
    sys.exit(0 if good else 1)


main()
