package stdio

import (
	"bufio"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
)

const (
	// maxLine is how much of a line of standard error is kept.
	maxLine = 4 << 10
	// maxTail is how much of standard error is kept to be told at the end.
	maxTail = 8 << 10
	// linesPerSecond bounds the lines that go to the log, after a burst.
	linesPerSecond, lineBurst = 20, 200
)

// tail takes what a program writes to its standard error: lines go to the log, if
// they are not too many, and the last ones are kept.
type tail struct {
	logger hclog.Logger
	pace   *rate.Limiter

	mu      sync.Mutex // guards what follows
	kept    []byte
	skipped int
}

func newTail(logger hclog.Logger) *tail {
	return &tail{logger: logger, pace: rate.NewLimiter(linesPerSecond, lineBurst)}
}

// readFrom reads to the end.
func (t *tail) readFrom(r io.Reader) {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, more, err := lines.ReadLine()
		if err != nil {
			break
		}
		t.add(strings.ToValidUTF8(string(line), "\ufffd"))
		for more && err == nil {
			_, more, err = lines.ReadLine() // the rest of a long line
		}
	}
	if t.skipped > 0 {
		t.logger.Debug("lines of standard error were not logged, they were too many", "count", t.skipped)
	}
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(append(t.kept, line...), '\n')
	if over := len(t.kept) - maxTail; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	if !t.pace.AllowN(time.Now(), 1) {
		t.skipped++
		return
	}
	t.logger.Debug("standard error", "line", line)
}

// last returns the end of what was written.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(strings.TrimSpace(string(t.kept)), "\ufffd")
}
