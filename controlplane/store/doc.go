// Package store is what the rest of the control plane sees of its store: the
// snapshot of the world at one revision, and the errors that are the store's
// own. It knows nothing of how the store is reached.
package store
