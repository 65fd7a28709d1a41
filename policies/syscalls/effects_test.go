package syscalls

import "testing"

// What stands about paths and capabilities fits what the calls are.
func TestEffects(t *testing.T) {
	for name, paths := range pathCalls {
		arguments, known := Arguments(name)
		if !known {
			t.Errorf("%s: no arguments", name)
			continue
		}
		for _, p := range paths {
			if arguments[p.Argument].Kind != KindText {
				t.Errorf("%s: argument %d is no text", name, p.Argument)
			}
			if p.Dir >= 0 && arguments[p.Dir].Kind != KindNumber {
				t.Errorf("%s: argument %d is no descriptor", name, p.Dir)
			}
		}
		if flags, ok := OpenFlags(name); ok && arguments[flags].Kind != KindFlags {
			t.Errorf("%s: argument %d has no flags", name, flags)
		}
	}
	for name, number := range neededCapabilities {
		if _, onAmd64 := Number("amd64", name); !onAmd64 || number < 0 || number > 40 {
			t.Errorf("%s: capability %d", name, number)
		}
		if len(Paths(name)) > 0 {
			t.Errorf("%s is watched for two reasons", name)
		}
	}
}
