package duplex

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/session"
)

// talker is a channel to a server that says a few things and ends.
type talker struct {
	lines []string
	gone  chan struct{}
}

func (*talker) Send(context.Context, *session.Dispatch) error { return nil }

func (k *talker) Receive() ([]byte, error) {
	if len(k.lines) == 0 {
		return nil, io.EOF
	}
	line := k.lines[0]
	k.lines = k.lines[1:]
	return []byte(line), nil
}

func (k *talker) Close() { close(k.gone) }

func (k *talker) Gone() <-chan struct{} { return k.gone }

func TestNothingOfWhatIsNoMessageIsLogged(t *testing.T) {
	const secret = "hunter2-canary"
	var log bytes.Buffer
	lines := []string{secret, `"` + secret + `"`, `{"jsonrpc":"2.0","method":` + secret, `{"jsonrpc":"` + secret + `","id":1}`, `{"jsonrpc":"2.0","id":{"` + secret + `":1},"method":"x"}`}
	newLink(&talker{lines, make(chan struct{})}, hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &log})).run()
	if got := strings.Count(log.String(), "no message"); got != len(lines) || strings.Contains(log.String(), secret) {
		t.Errorf("%d of %d were logged, as\n%s", got, len(lines), log.String())
	}
}
