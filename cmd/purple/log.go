package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
	"golang.org/x/sys/unix"
)

// levelTrace is below slog's own levels.
const levelTrace = slog.LevelDebug - 4

var logLevels = map[string]slog.Level{
	"error": slog.LevelError, "warn": slog.LevelWarn, "info": slog.LevelInfo, "debug": slog.LevelDebug, "trace": levelTrace,
}

// The subsystems are the stations of `purple run`.
const (
	logPolicies  = "policies"
	logHost      = "host"
	logTranslate = "translate"
	logUnits     = "units"
	logNetwork   = "network"
	logInit      = "init"
)

var logSubsystems = []string{logPolicies, logHost, logTranslate, logUnits, logNetwork, logInit}

// logFilter is the value of -l: a level for all, and others for some.
type logFilter struct {
	text string
	all  slog.Level
	of   map[string]slog.Level
}

func newLogFilter() *logFilter { return &logFilter{text: "warn", all: slog.LevelWarn} }

// String, Set and Type implement pflag.Value.
func (f *logFilter) String() string { return f.text }

// Type is what `--help` calls the value.
func (f *logFilter) Type() string { return "LEVEL[,SUBSYSTEM=LEVEL]..." }

// Set reads "info,units=trace". Said twice, a subsystem's level is a mistake.
func (f *logFilter) Set(text string) error {
	parsed := logFilter{text: text, all: slog.LevelWarn, of: map[string]slog.Level{}}
	for i, part := range strings.Split(text, ",") {
		subsystem, name, isOne := strings.Cut(part, "=")
		if !isOne {
			name = part
		}
		level, ok := logLevels[name]
		_, twice := parsed.of[subsystem]
		switch {
		case !ok:
			return fmt.Errorf("%q is no level: they are error, warn, info, debug and trace", name)
		case !isOne && i > 0:
			return fmt.Errorf("%q stands behind another part: the level for all comes first", name)
		case !isOne:
			parsed.all = level
		case !slices.Contains(logSubsystems, subsystem):
			return fmt.Errorf("%q is no subsystem: they are %s", subsystem, strings.Join(logSubsystems, ", "))
		case twice:
			return fmt.Errorf("%q is there twice", subsystem)
		default:
			parsed.of[subsystem] = level
		}
	}
	*f = parsed
	return nil
}

func (f *logFilter) level(subsystem string) slog.Level {
	if level, ok := f.of[subsystem]; ok {
		return level
	}
	return f.all
}

// log is Purple's own log of one subsystem, on standard error. What goes into
// it are names, numbers and digests: no argument of the command, and of its
// environment no value.
func (a *app) log(subsystem string) *slog.Logger {
	level := a.levels.level(subsystem)
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: nameLevel}
	var handler slog.Handler
	switch {
	case a.json:
		handler = slog.NewJSONHandler(a.stderr, options)
	case isJournal(a.stderr):
		handler = newJournalHandler(a.stderr, level)
	default:
		handler = slog.NewTextHandler(a.stderr, options)
	}
	return slog.New(handler).With("subsystem", subsystem)
}

// nameLevel writes the levels as -l takes them: slog knows no trace.
func nameLevel(groups []string, attr slog.Attr) slog.Attr {
	if len(groups) > 0 || attr.Key != slog.LevelKey {
		return attr
	}
	level, ok := attr.Value.Any().(slog.Level)
	if !ok {
		return attr
	}
	for _, name := range slices.Sorted(maps.Keys(logLevels)) {
		if logLevels[name] == level {
			attr.Value = slog.StringValue(name)
		}
	}
	return attr
}

// isJournal tells whether w is the stream to the journal that systemd gave to a
// service (JOURNAL_STREAM in systemd.exec(5)).
func isJournal(w io.Writer) bool {
	if e, ok := w.(escaping); ok {
		w = e.Writer
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// journalHandler writes a line's priority in front of it (sd-daemon(3)) and
// leaves the time and the level to the journal.
type journalHandler struct {
	w       io.Writer
	options slog.HandlerOptions
	derive  func(slog.Handler) slog.Handler // adds the attributes and groups
}

func newJournalHandler(w io.Writer, level slog.Level) journalHandler {
	omit := func(groups []string, attr slog.Attr) slog.Attr {
		if len(groups) == 0 && (attr.Key == slog.TimeKey || attr.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return attr
	}
	same := func(h slog.Handler) slog.Handler { return h }
	return journalHandler{w, slog.HandlerOptions{Level: level, ReplaceAttr: omit}, same}
}

// Enabled implements slog.Handler.
func (h journalHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.options.Level.Level()
}

// Handle implements slog.Handler.
func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	var line bytes.Buffer
	if err := h.derive(slog.NewTextHandler(&line, &h.options)).Handle(ctx, r); err != nil {
		return err
	}
	_, err := fmt.Fprintf(h.w, "<%d>%s", syslogPriority(r.Level), line.Bytes())
	return err
}

// WithAttrs implements slog.Handler.
func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	derive := h.derive
	h.derive = func(inner slog.Handler) slog.Handler { return derive(inner).WithAttrs(attrs) }
	return h
}

// WithGroup implements slog.Handler.
func (h journalHandler) WithGroup(name string) slog.Handler {
	derive := h.derive
	h.derive = func(inner slog.Handler) slog.Handler { return derive(inner).WithGroup(name) }
	return h
}

func syslogPriority(level slog.Level) int {
	switch {
	case level >= slog.LevelError:
		return 3
	case level >= slog.LevelWarn:
		return 4
	case level >= slog.LevelInfo:
		return 6
	default:
		return 7
	}
}

// digestValue is a policy's digest for the log, made only where that is written.
type digestValue struct{ policy *policies.Policy }

// LogValue implements slog.LogValuer.
func (d digestValue) LogValue() slog.Value {
	digest, err := d.policy.Digest()
	if err != nil {
		return slog.AnyValue(err)
	}
	return slog.StringValue(digest)
}

// logPlan says what a plan has, but for the command.
func (a *app) logPlan(p *translate.Plan) {
	log := a.log(logTranslate)
	log.Debug("made the plan", "unit", p.Unit, "properties", len(p.Properties), "mounts", len(p.Spec.Mounts), "uid", p.Spec.Identity.HostUID)
	if !log.Enabled(context.Background(), levelTrace) {
		return
	}
	for _, l := range p.Lines() {
		log.Log(context.Background(), levelTrace, "planned", "section", l.Section, "statement", l.Statement, "where", l.Where)
	}
}
