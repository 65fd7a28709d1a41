package confine

import (
	"io"
	"testing"
	"time"
)

// endless is a command that prints all the time.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// readAll reads n bytes by parts and tells how long that took on the test's clock.
func readAll(t *testing.T, p *paced, n int64, now *time.Time) time.Duration {
	t.Helper()
	begin := *now
	if _, err := io.CopyN(io.Discard, p, n); err != nil {
		t.Fatal(err)
	}
	return now.Sub(begin)
}

func TestOutputIsPaced(t *testing.T) {
	now := time.Unix(1000, 0)
	p := newPaced(endless{})
	p.at, p.now, p.sleep = now, func() time.Time { return now }, func(d time.Duration) { now = now.Add(d) }
	for _, c := range []struct {
		what         string
		idle         time.Duration
		bytes        int64
		atLeast, max time.Duration
	}{
		{"the burst", 0, outputBurst, 0, 0},
		{"more", 0, 10 * outputRate, 9900 * time.Millisecond, 10 * time.Second},
		{"a command that prints little", 10 * time.Second, 9 * outputRate, 0, 0},
		{"after a day there is one burst and not more", 24 * time.Hour, outputBurst + outputRate, 900 * time.Millisecond, time.Second},
	} {
		now = now.Add(c.idle)
		if took := readAll(t, p, c.bytes, &now); took < c.atLeast || took > c.max {
			t.Errorf("%s: %v, want %v to %v", c.what, took, c.atLeast, c.max)
		}
	}
}
