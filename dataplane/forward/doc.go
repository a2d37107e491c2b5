// Package forward carries a client's request from the worker it arrived at to
// the worker that owns its session, over gRPC, and the answer back as it comes.
// A stream carries one request at a time and then takes the next; requests that
// run together have a stream each, so that a short call never waits for a long
// one.
package forward
