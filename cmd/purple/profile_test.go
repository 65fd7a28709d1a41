package main

import "testing"

func TestSudoUser(t *testing.T) {
	for _, tt := range []struct {
		euid int
		env  string
		uid  uint32
		ok   bool
	}{
		{0, "1000", 1000, true},
		{0, "", 0, false},
		{0, "-1", 0, false},
		{0, "4294967296", 0, false},
		{0, "root", 0, false},
		{1000, "1001", 0, false}, // anyone can set it for themselves
	} {
		uid, ok := sudoUser(tt.euid, tt.env)
		if ok != tt.ok || ok && uid != tt.uid {
			t.Errorf("sudoUser(%d, %q) = %d, %t", tt.euid, tt.env, uid, ok)
		}
	}
}

func TestProfileDirsComeFromTheApp(t *testing.T) {
	t.Setenv("HOME", "/nowhere")
	t.Setenv("XDG_CONFIG_HOME", "/nowhere")
	dirs, err := (&app{}).profileDirs()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if len(dir.Path) >= len("/nowhere") && dir.Path[:len("/nowhere")] == "/nowhere" {
			t.Errorf("%s is taken from the environment", dir.Path)
		}
	}
}
