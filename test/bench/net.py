#!/usr/bin/env python3
"""What a filtered network costs: at the start, and in throughput.

Start: `true` under two profiles that differ in the network section only, in
random order in each round; the figure is the median of the paired differences.

Throughput: one TCP stream of iperf3 to its server in a network namespace, from
a sandbox through Purple's bridge, rules and masquerade, and from a bare
namespace over a veth pair of its own, in alternating rounds; the figure is the
median of the paired ratios. Client and server have a processor each, or what is
measured is where the scheduler puts them. Runs where systemd is PID 1, as root.
Usage: net.py [START-ROUNDS [THROUGHPUT-ROUNDS [SECONDS]]]
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
PURPLE = os.path.join(BIN, "purple")

START_LIMIT_MS, THROUGHPUT_LIMIT = 10, 0.8

PROCESSORS = ["--affinity", ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))]

# The server's namespace is joined to the host, and to the bare client directly.
# The host's link is what the sandbox's traffic is masqueraded on.
SERVER, SERVER_DIRECT = "198.51.100.10", "192.0.2.2"
LAYOUT = f"""
set -e
ip netns add pb-server
ip netns add pb-bare
ip -n pb-server link set lo up
ip link add pb-wan0 type veth peer name eth0 netns pb-server
ip addr add 203.0.113.7/24 dev pb-wan0
ip link set pb-wan0 up
ip -n pb-server addr add 203.0.113.1/24 dev eth0
ip -n pb-server link set eth0 up
ip -n pb-server addr add {SERVER}/32 dev lo
ip route add {SERVER}/32 via 203.0.113.1
ip -n pb-server route add default via 203.0.113.7
ip route show default | grep -q . || ip route add default via 203.0.113.1
ip -n pb-bare link add eth0 type veth peer name eth1 netns pb-server
ip -n pb-bare addr add 192.0.2.1/24 dev eth0
ip -n pb-bare link set eth0 up
ip -n pb-server addr add {SERVER_DIRECT}/24 dev eth1
ip -n pb-server link set eth1 up
"""
DEMOLISH = """
ip netns del pb-server
ip netns del pb-bare
ip link del pb-wan0 2>/dev/null
true
"""


def run(command, cwd=None):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, cwd=cwd, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: status {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode()


def in_namespace(name, *command):
    return ["nsenter", f"--net=/run/netns/{name}", "--", *command]


def start_once(profile, cwd):
    begin = time.perf_counter()
    run([PURPLE, "run", "--profile", os.path.join(HERE, profile), "--", "true"], cwd)
    return (time.perf_counter() - begin) * 1000


def measure_starts(rounds):
    """Milliseconds of each round: isolated, and networked."""
    times = {"bench.yaml": [], "bench-net.yaml": []}
    order = list(times)
    random.seed(0)
    with tempfile.TemporaryDirectory(prefix="purple-bench.") as cwd:
        for i in range(-2, rounds):
            random.shuffle(order)
            for profile in order:
                took = start_once(profile, cwd)
                if i >= 0:  # the first two rounds warm the caches
                    times[profile].append(took)
    return times["bench.yaml"], times["bench-net.yaml"]


def iperf(server, seconds):
    return ["iperf3", "--json", "--client", server, "--time", seconds, *PROCESSORS]


def bare_stream(seconds):
    return run(in_namespace("pb-bare", *iperf(SERVER_DIRECT, seconds)))


def sandbox_stream(seconds):
    profile = os.path.join(HERE, "bench-iperf3.yaml")
    return run([PURPLE, "run", "--profile", profile, "--", *iperf(SERVER, seconds)], BIN)


def rate(answer):
    """Bytes a second that reached the server."""
    try:
        return json.loads(answer)["end"]["sum_received"]["bits_per_second"] / 8
    except (TypeError, ValueError, KeyError):
        sys.exit(f"iperf3 says {answer!r}")


def measure_throughput(rounds, seconds):
    """Bytes a second of each round: over the bare veth, and from a sandbox."""
    bare, sandbox = [], []
    for i in range(rounds):
        turns = [(bare, bare_stream), (sandbox, sandbox_stream)]
        for rates, stream in turns if i % 2 else reversed(turns):
            rates.append(rate(stream(seconds)))
    return bare, sandbox


def start_server():
    """iperf3's server, which says in its log when it listens."""
    with tempfile.NamedTemporaryFile("r") as log:
        server = subprocess.Popen(in_namespace("pb-server", "iperf3", "--server", "--forceflush", "--logfile", log.name),
                                  stdin=subprocess.DEVNULL)
        while "listening" not in log.read():
            if server.poll() is not None:
                sys.exit(f"iperf3's server ends with {server.returncode}")
            time.sleep(0.01)
    return server


def verdict(good):
    return "" if good else "   TOO MUCH"


def report_starts(isolated, networked):
    cost = statistics.median(b - a for a, b in zip(isolated, networked))
    print(f"start to exit of `true`, {len(isolated)} paired runs, median milliseconds")
    print(f"  isolated {statistics.median(isolated):.1f}, networked {statistics.median(networked):.1f}, "
          f"cost {cost:.1f} (at most {START_LIMIT_MS}){verdict(cost <= START_LIMIT_MS)}")
    return cost <= START_LIMIT_MS


def report_throughput(bare, sandbox):
    ratio = statistics.median(b / a for a, b in zip(bare, sandbox))
    print(f"one TCP stream, {len(bare)} paired rounds, median Gbit/s")
    print(f"  bare veth {statistics.median(bare) * 8e-9:.2f}, from a sandbox {statistics.median(sandbox) * 8e-9:.2f}, "
          f"{ratio:.0%} (at least {THROUGHPUT_LIMIT:.0%}){verdict(ratio >= THROUGHPUT_LIMIT)}")
    return ratio >= THROUGHPUT_LIMIT


def main():
    arguments = sys.argv[1:] + ["40", "15", "1.5"][len(sys.argv) - 1:]
    start_rounds, throughput_rounds, seconds = int(arguments[0]), int(arguments[1]), arguments[2]
    server = None
    run(["bash", "-c", LAYOUT])
    try:
        server = start_server()
        good = report_starts(*measure_starts(start_rounds))
        good = report_throughput(*measure_throughput(throughput_rounds, seconds)) and good
    finally:
        if server is not None:
            server.kill()
            server.wait()
        subprocess.run(["bash", "-c", DEMOLISH], check=False)
    sys.exit(not good)


if __name__ == "__main__":
    main()
