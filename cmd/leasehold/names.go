package main

import (
	"strings"

	"github.com/leasehold/leasehold/cmd/internal/usage"
)

// anyGateway stands for the gateway of a session that is named without it.
const anyGateway = "-"

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
// gateways/GATEWAY/sessions/DIGEST, GATEWAY/sessions/DIGEST, GATEWAY/DIGEST or
// DIGEST. Where the last is written and gateway is empty, it is anyGateway's.
// The digest may be the first digits of one.
func sessionName(name, gateway string) (string, error) {
	gateway = strings.TrimPrefix(gateway, "gateways/")
	parts := strings.Split(strings.TrimPrefix(name, "gateways/"), "/")
	switch {
	case len(parts) == 3 && parts[1] == "sessions":
		parts = []string{parts[0], parts[2]}
	case len(parts) == 1 && gateway != "":
		parts = []string{gateway, parts[0]}
	case len(parts) == 1:
		parts = []string{anyGateway, parts[0]}
	}
	if len(parts) != 2 || parts[0] == "" {
		return "", checkDigits(name, "")
	}
	if err := checkDigits(name, parts[1]); err != nil {
		return "", err
	}
	if gateway != "" && gateway != parts[0] {
		return "", usage.Errorf("%q is not a session of --gateway %s", name, gateway)
	}
	return "gateways/" + parts[0] + "/sessions/" + parts[1], nil
}
