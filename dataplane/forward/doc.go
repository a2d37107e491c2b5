// Package forward carries a client's request from the worker it arrived at to
// the worker that owns its session, over gRPC, and the answer back as it comes.
// Each request has a stream of its own, so that a short call never waits for a
// long one.
package forward
