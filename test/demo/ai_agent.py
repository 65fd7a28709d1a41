#!/usr/bin/env python3
"""A small "agent" that does some honest work and then tries to get out."""

import os
import pathlib
import socket
import subprocess
import time


def attempt(what, action):
    """Does one thing and says how it went."""
    try:
        result = action()
    except Exception as err:  # every refusal is a result here
        print(f"  refused  {what}: {type(err).__name__}: {err}", flush=True)
        return
    print(f"  worked   {what}: {result}", flush=True)


def connect(host, port):
    socket.create_connection((host, port), timeout=2).close()
    return "connected"


def unix_connect(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
    return "connected"


def write(path):
    pathlib.Path(path).write_text("x")
    return "written"


print("what an agent needs:", flush=True)
attempt("compute", lambda: sum(range(1000)))
attempt("start a process", lambda: subprocess.check_output(["uname", "-s"], text=True).strip())
attempt("write a scratch file", lambda: write("/tmp/notes"))
attempt("read its own source", lambda: f"{len(pathlib.Path(__file__).read_bytes())} bytes")
attempt("know who it is", lambda: f"uid {os.getuid()} in {os.getcwd()}")

print("what nobody asked it to do:", flush=True)
attempt("read /etc/shadow", lambda: pathlib.Path("/etc/shadow").read_text())
attempt("look into /root", lambda: os.listdir("/root"))
attempt("change its own source", lambda: write(__file__))
attempt("change a program", lambda: write("/usr/bin/env"))
attempt("send mail", lambda: connect("192.0.2.1", 25))
attempt("ask the cloud for its keys", lambda: connect("169.254.169.254", 80))
attempt("look around in your network", lambda: connect("192.168.1.1", 443))
attempt("talk to systemd", lambda: unix_connect("/run/dbus/system_bus_socket"))
attempt("mount something", lambda: subprocess.check_output(["mount", "-t", "tmpfs", "none", "/tmp"], stderr=subprocess.STDOUT))
attempt("get a namespace of its own", lambda: subprocess.check_output(["unshare", "-U", "true"], stderr=subprocess.STDOUT))
attempt("become root", lambda: os.setuid(0) or "root")

time.sleep(float(os.environ.get("LINGER", "0")))
