package main

import (
	"strings"

	"github.com/leasehold/leasehold/cmd/internal/usage"
)

// gatewayName returns the full name of a gateway that was named with or without
// its prefix.
func gatewayName(name string) (string, error) {
	id := strings.TrimPrefix(name, "gateways/")
	if id == "" || strings.Contains(id, "/") {
		return "", usage.Errorf("%q is not the name of a gateway; write it as gateways/ID or ID", name)
	}
	return "gateways/" + id, nil
}

// workerName returns the full name of a worker.
func workerName(name string) (string, error) {
	id := strings.TrimPrefix(name, "workers/")
	if id == "" || strings.Contains(id, "/") {
		return "", usage.Errorf("%q is not the name of a worker; write it as workers/ID or ID", name)
	}
	return "workers/" + id, nil
}

// sessionName returns the full name of a session, which may be written as
// gateways/GATEWAY/sessions/DIGEST, GATEWAY/sessions/DIGEST, GATEWAY/DIGEST or,
// where the gateway is known otherwise, DIGEST.
func sessionName(name, gateway string) (string, error) {
	parts := strings.Split(strings.TrimPrefix(name, "gateways/"), "/")
	switch {
	case len(parts) == 3 && parts[1] == "sessions":
		parts = []string{parts[0], parts[2]}
	case len(parts) == 1 && gateway != "":
		parts = []string{strings.TrimPrefix(gateway, "gateways/"), parts[0]}
	}
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return "", usage.Errorf("%q is not the name of a session; write it as gateways/GATEWAY/sessions/DIGEST or GATEWAY/DIGEST", name)
	}
	if gateway != "" && strings.TrimPrefix(gateway, "gateways/") != parts[0] {
		return "", usage.Errorf("%q is not a session of --gateway %s", name, gateway)
	}
	return "gateways/" + parts[0] + "/sessions/" + parts[1], nil
}
