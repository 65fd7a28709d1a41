#!/usr/bin/env python3
"""Start to exit of `true`, medians of paired runs.

Every round runs each contender once, in a random order, so that what the
machine does meanwhile, and what the one before has left to PID 1 and the
kernel to clean up, meets all of them alike. Runs where systemd is
PID 1, as root. Usage: bench.py [ROUNDS]
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PURPLE = os.path.join(HERE, "..", "..", "bin", "purple")
BINDS = [p for p in ("/usr", "/bin", "/lib", "/lib64") if os.path.exists(p)]

MAPPED_ROOT = 100000  # root of a container's user namespace

HARDENING = [
    "PrivateNetwork=yes", "PrivateIPC=yes", "PrivateMounts=yes",
    "TemporaryFileSystem=/:ro", *(f"BindReadOnlyPaths={p}" for p in BINDS), "TemporaryFileSystem=/tmp",
    "PrivateDevices=yes", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "User=65534",
    "SystemCallFilter=@system-service", "SystemCallArchitectures=native",
    "MemoryMax=2G", "MemorySwapMax=0", "TasksMax=512", "RuntimeMaxSec=3600",
]


def systemd_run(properties):
    return ["systemd-run", "--quiet", "--wait", "--pipe", *(x for p in properties for x in ("-p", p)), "true"]


def bubblewrap():
    binds = [x for p in BINDS for x in ("--ro-bind", p, p)]
    return ["bwrap", *binds, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
            "--unshare-all", "--new-session", "--die-with-parent", "--uid", "1000", "--gid", "1000", "true"]


def runc_bundle(directory, change=lambda config: None):
    """Makes a bundle with the same binds, and gives the command that runs it."""
    rootfs = os.path.join(directory, "rootfs")
    os.makedirs(rootfs)
    os.chown(rootfs, MAPPED_ROOT, MAPPED_ROOT)
    subprocess.run(["runc", "spec", "--bundle", directory], check=True)
    path = os.path.join(directory, "config.json")
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    config["process"]["terminal"] = False
    config["process"]["args"] = ["true"]
    config["mounts"] += [{"destination": p, "source": p, "type": "bind", "options": ["rbind", "ro", "nosuid", "nodev"]}
                         for p in BINDS]
    change(config)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(config, f)
    return lambda i: ["runc", "run", "--bundle", directory, f"{os.path.basename(directory)}-{os.getpid()}-{i}"]


def harden(config):
    """What `runc spec` leaves out and purple does: a user namespace, a filter, limits, no capability, /tmp."""
    linux = config["linux"]
    linux["namespaces"] += [{"type": "user"}, {"type": "cgroup"}]
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": MAPPED_ROOT, "size": 65536}]
    linux["resources"].update({"memory": {"limit": 512 << 20}, "pids": {"limit": 64}})
    linux["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
                        "syscalls": [{"names": system_service(), "action": "SCMP_ACT_ALLOW"}]}
    config["process"]["user"] = {"uid": 1000, "gid": 1000}
    config["process"]["capabilities"] = {}
    config["mounts"].append({"destination": "/tmp", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid", "nodev"]})


def system_service():
    """The names in systemd's group of that name."""
    names, groups = set(), ["@system-service"]
    while groups:
        listing = subprocess.run(["systemd-analyze", "syscall-filter", groups.pop()], check=True, capture_output=True, text=True).stdout
        words = {line.strip() for line in listing.splitlines()[1:] if line.strip() and not line.strip().startswith("#")}
        groups += [w for w in words if w.startswith("@")]
        names |= {w for w in words if not w.startswith("@")}
    return sorted(names)


def contenders(directory):
    """Names and, for round i, the command."""
    return {
        "true": lambda i: ["true"],
        "systemd-run --wait --pipe": lambda i: systemd_run([]),
        "systemd-run, hardened": lambda i: systemd_run(HARDENING),
        "bubblewrap": lambda i: bubblewrap(),
        "runc": runc_bundle(os.path.join(directory, "runc")),
        "runc, hardened": runc_bundle(os.path.join(directory, "runc-hardened"), harden),
        "purple run": lambda i: [PURPLE, "run", "--profile", os.path.join(HERE, "bench.yaml"), "--", "true"],
    }


def once(command):
    begin = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          check=False)
    took = time.perf_counter() - begin
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: status {done.returncode}: {done.stderr.decode(errors='replace')}")
    return took * 1000


def measure(rounds):
    directory = tempfile.mkdtemp(prefix="purple-bench.")
    os.chmod(directory, 0o755)  # for the root of a user namespace
    workdir = tempfile.mkdtemp(prefix="purple-bench-cwd.")
    os.chdir(workdir)
    try:
        entries = list(contenders(directory).items())
        times = {name: [] for name, _ in entries}
        random.seed(0)
        for i in range(-2, rounds):
            random.shuffle(entries)
            for name, command in entries:
                took = once(command(i))
                if i >= 0:  # the first two rounds warm the caches
                    times[name].append(took)
        return times
    finally:
        os.chdir("/")
        shutil.rmtree(directory)
        shutil.rmtree(workdir)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    times = measure(rounds)
    bare = times["systemd-run --wait --pipe"]
    print(f"start to exit of `true`, {rounds} paired runs, milliseconds")
    print(f"{'':32}{'median':>8}{'p90':>8}{'x bare':>8}")
    for name, took in times.items():
        ratio = statistics.median(a / b for a, b in zip(took, bare))
        p90 = statistics.quantiles(took, n=10)[-1]
        print(f"{name:32}{statistics.median(took):8.1f}{p90:8.1f}{ratio:8.2f}")


main()
