package etcd

import (
	"slices"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger returns a zap logger whose warnings and errors go to log. What etcd
// has to say below that is not for an operator of ours.
func zapLogger(log hclog.Logger) *zap.Logger { return zap.New(&zapBridge{log: log}) }

// attemptFailed is what the client says of every single attempt. Whoever made
// the call gets the error, and says it once.
const attemptFailed = "retrying of unary invoker failed"

// zapBridge writes zap entries to hclog, fields as key-value pairs.
type zapBridge struct {
	log    hclog.Logger
	fields []zapcore.Field
}

// Enabled implements zapcore.LevelEnabler.
func (b *zapBridge) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

// With implements zapcore.Core.
func (b *zapBridge) With(fields []zapcore.Field) zapcore.Core {
	return &zapBridge{log: b.log, fields: append(slices.Clip(b.fields), fields...)}
}

// Check implements zapcore.Core.
func (b *zapBridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

// Write implements zapcore.Core.
func (b *zapBridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range b.fields {
		f.AddTo(enc)
	}
	for _, f := range fields {
		f.AddTo(enc)
	}
	args := make([]any, 0, 2*len(enc.Fields))
	for key, value := range enc.Fields {
		args = append(args, key, value)
	}
	switch {
	case e.Message == attemptFailed:
		b.log.Debug(e.Message, args...)
	case e.Level >= zapcore.ErrorLevel:
		b.log.Error(e.Message, args...)
	default:
		b.log.Warn(e.Message, args...)
	}
	return nil
}

// Sync implements zapcore.Core.
func (b *zapBridge) Sync() error { return nil }
