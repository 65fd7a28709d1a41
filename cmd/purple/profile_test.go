package main

import (
	"testing"

	"github.com/purple-sandbox/purple/translate"
)

func TestUserBehind(t *testing.T) {
	for _, tt := range []struct {
		euid int
		env  map[string]string
		want string // empty: nobody; "error"
	}{
		{0, nil, ""},
		{0, map[string]string{"SUDO_UID": "1"}, "daemon"},
		{0, map[string]string{"SUDO_UID": "0"}, ""},
		{0, map[string]string{"PKEXEC_UID": "1"}, "daemon"},
		{0, map[string]string{"DOAS_USER": "daemon"}, "daemon"},
		{0, map[string]string{"DOAS_USER": "root"}, ""},
		// doas and pkexec may be told to keep what the caller has set, and so may sudo.
		{0, map[string]string{"SUDO_UID": "0", "DOAS_USER": "daemon"}, "daemon"},
		{0, map[string]string{"SUDO_UID": "1", "DOAS_USER": "root"}, "daemon"},
		{0, map[string]string{"SUDO_UID": "1", "PKEXEC_UID": "1", "DOAS_USER": "daemon"}, "daemon"},
		{0, map[string]string{"SUDO_UID": "2", "DOAS_USER": "daemon"}, "error"},
		{0, map[string]string{"SUDO_UID": "-1"}, "error"},
		{0, map[string]string{"SUDO_UID": "4294967296"}, "error"},
		{0, map[string]string{"SUDO_UID": "root"}, "error"},
		{0, map[string]string{"SUDO_UID": "1 "}, "error"},
		{0, map[string]string{"DOAS_USER": "1"}, "error"},
		{1000, map[string]string{"SUDO_UID": "1", "DOAS_USER": "nobody-at-all"}, ""}, // anyone can set it for themselves
	} {
		got := ""
		u, err := userBehind(tt.euid, func(name string) string { return tt.env[name] })
		if u != nil {
			got = u.Username
		}
		if err != nil {
			got = "error"
		}
		if got != tt.want {
			t.Errorf("userBehind(%d, %v) = %q, %v, want %q", tt.euid, tt.env, got, err, tt.want)
		}
	}
}

func TestProfileDirsComeFromTheApp(t *testing.T) {
	t.Setenv("HOME", "/nowhere")
	t.Setenv("XDG_CONFIG_HOME", "/nowhere")
	dirs, err := (&app{}).profileDirs(translate.Invoker{UID: 1000, Home: "/home/me"})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if len(dir.Path) >= len("/nowhere") && dir.Path[:len("/nowhere")] == "/nowhere" {
			t.Errorf("%s is taken from the environment", dir.Path)
		}
	}
}
