package translate

import "testing"

func TestPathRemedy(t *testing.T) {
	p := parse(t, `
name: x
filesystem:
  immutable_paths: [/usr, {host_path: /opt/tool, sandbox_path: /tool}]
  scratch_paths: [/tmp]
  workspace: read-only
network: {isolated: true}
`)
	for _, c := range []struct{ workspace, path, key, entry, never string }{
		{"/home/ann/project", "/home/ann/project/a/b", "filesystem.workspace", "read-write", ""},
		{"/home/ann/project", "/tool/a/b", "filesystem.output_paths", `{host_path: "/opt/tool/a", sandbox_path: "/tool/a", mode: read-write}`, ""},
		{"", "/usr/share/x", "filesystem.output_paths", `{host_path: "/usr/share", sandbox_path: "/usr/share", mode: read-write}`, ""},
		{"/home/ann/project", "/var/cache/x/", "filesystem.scratch_paths", "/var/cache", ""},
		{"", "/srv/x", "filesystem.workspace", "read-write", ""},
		{"/home/ann/project", "/home/ann/project/../../../proc/self/x", "", "", "/proc is the sandbox's own"},
		{"", "/dev/x", "", "", "/dev is the sandbox's own"},
		{"/w", "/x", "", "", "the root of the sandbox stays as it is"},
	} {
		if got := PathRemedy(p, c.workspace, c.path); got != (Setting{c.key, c.entry, c.never}) {
			t.Errorf("%s in %q: %+v", c.path, c.workspace, got)
		}
	}
	if got := PathRemedy(nil, "", "/x"); got.Never == "" {
		t.Errorf("without a policy: %+v", got)
	}
}

func TestReadRemedy(t *testing.T) {
	p := parse(t, `
name: x
filesystem:
  immutable_paths: [/usr]
  output_paths:
    - {host_path: /srv/log, sandbox_path: /log, mode: read-write}
    - {host_path: /srv/out, sandbox_path: /out}
network: {isolated: true}
`)
	for path, want := range map[string]string{
		"/out/a": `{host_path: "/srv/out", sandbox_path: "/out", mode: read-write}`, "/usr/../out": `{host_path: "/srv/out", sandbox_path: "/out", mode: read-write}`,
		"/": "", "/outer": "", "/log/x": "",
	} {
		add, instead := ReadRemedy(p, path)
		if add.Entry != want || (want == "") != (add.Never != "") || want != "" && (instead != Setting{Key: "filesystem.output_paths[1]", Entry: "/out"}) {
			t.Errorf("%s: %+v, %+v", path, add, instead)
		}
	}
	if add, _ := ReadRemedy(nil, "/out"); add.Never == "" {
		t.Errorf("without a policy: %+v", add)
	}
}

func TestCapabilityUse(t *testing.T) {
	for name, useless := range map[string]bool{"CAP_NET_BIND_SERVICE": false, "CAP_SYS_CHROOT": false, "CAP_SYS_ADMIN": true, "CAP_SYS_TIME": true} {
		if got := CapabilityUse(name); (got != "") != useless {
			t.Errorf("%s: %q", name, got)
		}
	}
}
