package main

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Digits of names.
const (
	// shortest is how few digits of a session or a worker are enough to name it,
	// if they are enough to tell it from all others.
	shortest     = 8
	digestDigits = 32
	workerDigits = 16
	// mostNamed is how many names an error lists.
	mostNamed = 3
)

// findSession returns the full name of the session that text means: its name,
// GATEWAY/DIGEST or DIGEST, where the first digits of the digest are enough.
// gateway, if not empty, says whose session it is.
func (c *client) findSession(ctx context.Context, text, gateway string) (string, error) {
	if gateway != "" {
		if _, err := gatewayName(gateway); err != nil {
			return "", err
		}
	}
	name, err := sessionName(text, gateway)
	if err != nil {
		return "", err
	}
	of, digits := sessionParts(name)
	if len(digits) == digestDigits && of != anyGateway {
		return name, nil
	}
	list := &sessionList{parent: "gateways/" + of, ended: true}
	return find(ctx, c, list.resource().all, "session", text, func(name string) bool {
		_, digest := sessionParts(name)
		return strings.HasPrefix(digest, digits)
	})
}

// findWorker returns the full name of a worker, alive or known still, that was named
// by its id or the first digits of it.
func (c *client) findWorker(ctx context.Context, text string) (string, error) {
	name, err := workerName(text)
	if err != nil {
		return "", err
	}
	digits := strings.TrimPrefix(name, "workers/")
	if len(digits) >= workerDigits || len(digits) < shortest || !hexadecimal(digits) {
		return name, nil // the control plane says what is wrong with it, if anything is
	}
	return find(ctx, c, (&workerList{dead: true}).resource().all, "worker", text, func(candidate string) bool { return strings.HasPrefix(candidate, name) })
}

// find returns the one name among all that matches.
func find[M operator.Resource](ctx context.Context, c *client, fetch func(context.Context, *grpc.ClientConn) ([]M, error), kind, text string, matches func(string) bool) (string, error) {
	ctx, conn, closeAll, err := c.connect(ctx)
	if err != nil {
		return "", err
	}
	defer closeAll()
	all, err := fetch(ctx, conn)
	if err != nil {
		return "", fmt.Errorf("look for %s %s: %w", kind, text, operator.Explain(err))
	}
	var names []string
	for _, one := range all {
		if matches(one.GetName()) {
			names = append(names, one.GetName())
		}
	}
	switch {
	case len(names) == 0:
		return "", fmt.Errorf("there is no %s whose name begins with %s", kind, text)
	case len(names) > mostNamed:
		return "", fmt.Errorf("%s is the beginning of %d %ss, %s and others; write more digits", text, len(names), kind, strings.Join(names[:mostNamed], ", "))
	case len(names) > 1:
		return "", fmt.Errorf("%s is the beginning of %d %ss, %s; write more digits", text, len(names), kind, strings.Join(names, ", "))
	}
	return names[0], nil
}

// telling returns how many digits tell all sessions apart, at least shortest.
// Those of one gateway and another may be given without the gateway, so all are
// told from all.
func telling(all []*leaseholdv1.Session) int {
	for digits := shortest; digits < digestDigits; digits *= 2 {
		seen := make(map[string]bool, len(all))
		for _, session := range all {
			_, digest := sessionParts(session.GetName())
			seen[clip(digest, digits)] = true
		}
		if len(seen) == len(all) {
			return digits
		}
	}
	return digestDigits
}

// sessionParts returns the gateway and the digest in the full name of a session.
func sessionParts(name string) (gateway, digest string) {
	gateway, digest, _ = strings.Cut(strings.TrimPrefix(name, "gateways/"), "/sessions/")
	return gateway, digest
}

// clip returns the first n characters of an ASCII name.
func clip(name string, n int) string { return name[:min(n, len(name))] }

func hexadecimal(text string) bool { return text != "" && strings.Trim(text, "0123456789abcdef") == "" }

// checkDigits says what is wrong with the digits of a session's name.
func checkDigits(text, digits string) error {
	switch {
	case !hexadecimal(digits) || len(digits) > digestDigits:
		return usage.Errorf("%q is not the name of a session; write it as gateways/GATEWAY/sessions/DIGEST, GATEWAY/DIGEST or DIGEST, with digits as `leasehold get sessions` shows", text)
	case len(digits) < shortest:
		return usage.Errorf("%q has %d digits; a session is named by at least %d", text, len(digits), shortest)
	}
	return nil
}
