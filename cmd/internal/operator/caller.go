package operator

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
)

// attempt is how long one replica may take to answer a call that another could
// answer too.
const attempt = 5 * time.Second

// Caller makes calls that may be made more than once. Whatever becomes of the
// replica that it asks, it asks the next one until it has an answer. It is for
// one goroutine, which closes it.
type Caller struct {
	turns    *turns
	conn     *grpc.ClientConn
	answered bool // a replica has answered
}

// NewCaller returns a Caller for a control plane at these addresses. note is told
// when the control plane was lost and when it is back.
func NewCaller(control []string, note func(text string)) *Caller {
	return &Caller{turns: newTurns(control, note)}
}

// Call makes a call until it is answered or ctx ends, and returns the cause of that
// end then. It fails otherwise only with an answer that another replica would give
// too, or when no replica can be reached to begin with.
func (c *Caller) Call(ctx context.Context, call func(context.Context, *grpc.ClientConn) error) error {
	for {
		err := c.once(ctx, call)
		var unreachable *UnreachableError
		switch {
		case err == nil, final(err):
			c.answered = true
			c.turns.heard()
			return Explain(err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !c.answered && errors.As(err, &unreachable):
			return err
		}
		if err := c.turns.next(ctx, err); err != nil {
			return err
		}
	}
}

// once asks the replica whose turn it is, over the connection that there is.
func (c *Caller) once(ctx context.Context, call func(context.Context, *grpc.ClientConn) error) error {
	if c.conn == nil {
		conn, err := Dial(ctx, c.turns.addresses)
		if err != nil {
			return err
		}
		c.conn = conn
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	err := call(ctx, c.conn)
	if err != nil && !final(err) {
		c.Close()
	}
	return err
}

// Close closes the connection. A later call makes another.
func (c *Caller) Close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
