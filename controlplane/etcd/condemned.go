package etcd

import (
	"fmt"
	"sync"
)

// notCondemnedError says that a reclaim has to condemn the owner's incarnation,
// which has this key.
type notCondemnedError struct{ incarnation string }

// Error names the key.
func (e *notCondemnedError) Error() string { return fmt.Sprintf("%s is not there yet", e.incarnation) }

// maxCondemned bounds the condemned incarnations that a replica remembers.
const maxCondemned = 1024

// condemnedSet is incarnations that this replica has condemned, or is about to.
// Forgetting one costs a transaction. Safe for concurrent use.
type condemnedSet struct {
	mu    sync.Mutex // guards what follows
	keys  map[string]bool
	begun map[string]chan struct{} // closed when it is over
}

func (c *condemnedSet) has(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys[key]
}

func (c *condemnedSet) add(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys == nil || len(c.keys) >= maxCondemned {
		c.keys = make(map[string]bool)
	}
	c.keys[key] = true
}

func (c *condemnedSet) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, key)
}

// begin reports whether the caller is the one to condemn an incarnation, and then
// calls end whatever came of it. Otherwise over is closed when somebody else has.
func (c *condemnedSet) begin(key string) (over <-chan struct{}, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if over, ok := c.begun[key]; ok {
		return over, false
	}
	if c.begun == nil {
		c.begun = make(map[string]chan struct{})
	}
	c.begun[key] = make(chan struct{})
	return c.begun[key], true
}

func (c *condemnedSet) end(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.begun[key])
	delete(c.begun, key)
}
