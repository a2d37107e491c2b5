package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/leasehold/leasehold/test/internal/client"
)

// keyOf returns the id of the key that a session's id is under.
func keyOf(t *testing.T, s *client.Session) string {
	t.Helper()
	sealed, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(s.ID, "lh1."))
	if err != nil {
		t.Fatal(err)
	}
	return string(sealed[:4])
}

func TestSessionKeyIsRotatedAndNoSessionEnds(t *testing.T) {
	c, gateway := shared(t), "rotated"
	remote, _, err := c.StartLedger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), gateway, remote.URL(), ""); err != nil {
		t.Fatal(err)
	}
	for _, w := range c.Workers {
		eventually(t, configLimit, func(ctx context.Context) error { return served(ctx, w, gateway) })
	}
	old := open(t, c.Workers[0], gateway)
	increment(t, old, c.Workers[0], gateway, 1)
	out, err := c.CLI(t.Context(), "", "keys", "rotate", "session")
	if err != nil || !strings.HasSuffix(out, " seals\n") {
		t.Fatalf("keys rotate session printed %q, %v", out, err)
	}
	// Whoever has the new key may not have heard that it seals.
	var fresh *client.Session
	eventually(t, configLimit, func(ctx context.Context) error {
		if fresh = open(t, c.Workers[1], gateway); keyOf(t, fresh) == keyOf(t, old) {
			return errors.New("the worker seals with the former key")
		}
		return nil
	})
	for i, w := range c.Workers {
		increment(t, old, w, gateway, i+2)
		increment(t, fresh, w, gateway, i+1)
	}
	table, err := c.CLI(t.Context(), "", "keys", "session")
	if err != nil || strings.Count(table, "SEALING") != 1 {
		t.Errorf("keys session printed %q, %v; want one key that seals", table, err)
	}
}
