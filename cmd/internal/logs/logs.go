// Package logs sets up the log of a process: one hclog logger, and a bridge for
// libraries that log with slog.
package logs

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// Levels are the levels a log can have, the most talkative first.
func Levels() []string { return []string{"trace", "debug", "info", "warn", "error", "off"} }

// Formats are the formats a log can have.
func Formats() []string { return []string{"text", "json"} }

// New returns a logger that writes to w. level and format are one of Levels and
// Formats.
func New(w io.Writer, level, format string) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name:       "leasehold",
		Level:      hclog.LevelFromString(level),
		Output:     w,
		JSONFormat: format == "json",
		TimeFormat: "2006-01-02T15:04:05.000Z07:00",
	})
}

// Slog returns a slog logger that writes to logger.
func Slog(logger hclog.Logger) *slog.Logger { return slog.New(&bridge{logger: logger}) }

// bridge is a slog.Handler over hclog. Attributes in groups get the groups'
// names before their own, with dots between.
type bridge struct {
	logger hclog.Logger
	prefix string
}

func (b *bridge) Enabled(_ context.Context, level slog.Level) bool {
	return b.logger.GetLevel() <= levelOf(level) && b.logger.GetLevel() != hclog.Off
}

func (b *bridge) Handle(_ context.Context, record slog.Record) error {
	var pairs []any
	record.Attrs(func(attr slog.Attr) bool {
		pairs = append(pairs, flatten(b.prefix, attr)...)
		return true
	})
	b.logger.Log(levelOf(record.Level), record.Message, pairs...)
	return nil
}

func (b *bridge) WithAttrs(attrs []slog.Attr) slog.Handler {
	var pairs []any
	for _, attr := range attrs {
		pairs = append(pairs, flatten(b.prefix, attr)...)
	}
	return &bridge{logger: b.logger.With(pairs...), prefix: b.prefix}
}

func (b *bridge) WithGroup(name string) slog.Handler {
	if name == "" {
		return b
	}
	return &bridge{logger: b.logger, prefix: b.prefix + name + "."}
}

func flatten(prefix string, attr slog.Attr) []any {
	value := attr.Value.Resolve()
	if value.Kind() != slog.KindGroup {
		if attr.Key == "" {
			return nil
		}
		return []any{prefix + attr.Key, value.Any()}
	}
	if attr.Key != "" {
		prefix += attr.Key + "."
	}
	var pairs []any
	for _, member := range value.Group() {
		pairs = append(pairs, flatten(prefix, member)...)
	}
	return pairs
}

func levelOf(level slog.Level) hclog.Level {
	switch {
	case level < slog.LevelDebug:
		return hclog.Trace
	case level < slog.LevelInfo:
		return hclog.Debug
	case level < slog.LevelWarn:
		return hclog.Info
	case level < slog.LevelError:
		return hclog.Warn
	}
	return hclog.Error
}
