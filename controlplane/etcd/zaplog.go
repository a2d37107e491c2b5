package etcd

import (
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger returns a zap logger whose warnings and errors go to log. What etcd
// has to say below that is not for an operator of ours.
func zapLogger(log hclog.Logger) *zap.Logger { return zap.New(&zapBridge{log: log}) }

// harmless is how messages begin that concern nobody although they are warnings
// or errors. They are logged as debug.
var harmless = []string{
	// Of every single attempt. Whoever made the call gets the error, and says it.
	"retrying of unary invoker failed",
	// At each start of an embedded server, of settings that are meant so: it is
	// alone, on loopback, and has no users.
	"it isn't recommended to use default name",
	"Running http and grpc server on single port",
	"simple token is not cryptographically signed",
}

// circumstances are messages that are harmless when their error ends so, and
// real problems otherwise.
var circumstances = []struct {
	message string
	causes  []string
}{
	// At its own stop a server says that its listeners are closed.
	{"setting up serving from embedded etcd failed", closed},
	{"stopped insecure grpc server due to error", closed},
	{"stopping insecure grpc server due to error", closed},
	// A store that is new has no term yet when it is looked at first.
	{"Failed to detect schema version", freshStore},
	{"failed to update storage version", freshStore},
}

var (
	closed     = []string{"use of closed network connection", "the server has been stopped", "Server closed", "mux: server closed", "mux: listener closed"}
	freshStore = []string{"missing term information"}
)

func isHarmless(message string, fields map[string]any) bool {
	if slices.ContainsFunc(harmless, func(begin string) bool { return strings.HasPrefix(message, begin) }) {
		return true
	}
	cause, _ := fields["error"].(string)
	for _, c := range circumstances {
		if strings.HasPrefix(message, c.message) {
			return slices.ContainsFunc(c.causes, func(end string) bool { return strings.HasSuffix(cause, end) })
		}
	}
	return false
}

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
	case isHarmless(e.Message, enc.Fields):
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
