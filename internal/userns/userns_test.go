package userns

import "testing"

func TestMapText(t *testing.T) {
	for _, c := range []struct {
		inner, outer uint32
		others       bool
		want         string
	}{
		{1000, 1000, false, "1000 1000 1\n"},
		{0, 1879048193, true, "0 1879048193 1\n1 1 1879048192\n1879048194 1879048194 2415919101\n"},
		{1000, 1879048193, true, "1000 1879048193 1\n0 0 1000\n1001 1001 1879047192\n1879048194 1879048194 2415919101\n"},
		{4294967294, 5, true, "4294967294 5 1\n0 0 5\n6 6 4294967288\n"},
		{7, 7, true, "7 7 1\n0 0 7\n8 8 4294967287\n"},
	} {
		if got := mapText(c.inner, c.outer, c.others); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
