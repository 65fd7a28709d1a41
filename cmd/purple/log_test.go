package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestLogFilter(t *testing.T) {
	for text, want := range map[string]map[string]slog.Level{
		"warn":                   {logUnits: slog.LevelWarn},
		"error":                  {logUnits: slog.LevelError},
		"info,units=trace":       {logUnits: levelTrace, logHost: slog.LevelInfo},
		"units=debug,init=error": {logUnits: slog.LevelDebug, logInit: slog.LevelError, logHost: slog.LevelWarn},
	} {
		f := newLogFilter()
		if err := f.Set(text); err != nil || f.String() != text {
			t.Errorf("%q: %v", text, err)
		}
		for subsystem, level := range want {
			if got := f.level(subsystem); got != level {
				t.Errorf("%q: %s has %v, want %v", text, subsystem, got, level)
			}
		}
	}
	for text, want := range map[string]string{
		"":                       `"" is no level`,
		"loud":                   "they are error, warn, info, debug and trace",
		"INFO":                   "is no level",
		"info,debug":             "the level for all comes first",
		"info,disk=debug":        `"disk" is no subsystem`,
		"info,units=":            `"" is no level`,
		"units=info,units=debug": "is there twice",
		"info,units=debug,,x":    `"" is no level`,
	} {
		f := newLogFilter()
		if err := f.Set(text); err == nil || f.String() == text || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestLogForms(t *testing.T) {
	write := func(change func(*app)) string {
		var out bytes.Buffer
		a := &app{stderr: &out, levels: newLogFilter()}
		if err := a.levels.Set("warn,units=trace"); err != nil {
			t.Fatal(err)
		}
		change(a)
		a.log(logUnits).Log(t.Context(), levelTrace, "one", "unit", "x\x1b[2J\ny")
		a.log(logHost).Info("not asked for")
		return out.String()
	}
	for want, change := range map[string]func(*app){
		` level=trace msg=one subsystem=units unit="x\x1b[2J\ny"` + "\n":                 func(*app) {},
		`"level":"trace","msg":"one","subsystem":"units","unit":"x\u001b[2J\ny"}` + "\n": func(a *app) { a.json = true },
	} {
		if got := write(change); !strings.HasSuffix(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// In the journal a line has a priority, and neither a time nor a level of its own.
func TestLogInTheJournal(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newJournalHandler(&out, slog.LevelDebug)).With("subsystem", "units").WithGroup("g").With("a", 1)
	log.Debug("low", "b", 2)
	log.Warn("high")
	log.Log(t.Context(), levelTrace, "not asked for")
	if want := "<7>msg=low subsystem=units g.a=1 g.b=2\n<4>msg=high subsystem=units g.a=1\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	if isJournal(&out) {
		t.Error("a buffer is taken for the journal")
	}
}
