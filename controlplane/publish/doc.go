// Package publish brings the newest state of the world to every worker's stream,
// and the workers' acknowledgements back to the store.
//
// A stream gets the complete state first and differences afterwards. Nothing is
// queued: a stream that is slow is brought from what it was sent last to what is
// newest then, in one step.
package publish
