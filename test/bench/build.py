#!/usr/bin/env python3
"""What the audit costs a command that is denied next to nothing: a build.

A folder of C files is compiled, one gcc after the other, under Purple with and
without its audit, and with one that has each open looked at, under strace(1), and in a plain unit with the same group of
system calls allowed and the others logged. In each round every contender has
its turn, in random order; the ratio is the median of the paired ratios to
Purple without audit. Runs where systemd is PID 1, as root, with gcc there.
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
    with tempfile.TemporaryDirectory(prefix="purple-bench.") as profiles, tempfile.TemporaryDirectory(prefix="purple-bench.") as sources:
        os.chmod(sources, 0o755)
        write_sources(sources, files)
        entries = list(contenders(profiles).items())
        times = {name: [] for name, _ in entries}
        random.seed(0)
        for i in range(-1, rounds):
            random.shuffle(entries)
            for name, command in entries:
                took = once(command, sources)
                if i >= 0:  # the first round warms the caches
                    times[name].append(took)
        return times


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    files = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    times = measure(rounds, files)
    ratios = {name: statistics.median(a / b for a, b in zip(took, times[SILENT])) for name, took in times.items()}
    print(f"a build of {files} C files, {rounds} paired rounds, median seconds")
    for name, took in times.items():
        print(f"  {name:20}{statistics.median(took):8.2f}   {100 * ratios[name]:6.1f}%")
    good = ratios[AUDITED] <= RATIO_LIMIT
    print(f"  the audit's share: {100 * (ratios[AUDITED] - 1):.1f}% (at most {100 * (RATIO_LIMIT - 1):.0f}%)" + ("" if good else "   TOO MUCH"))
    sys.exit(0 if good else 1)


main()
