package conformance

import (
	"fmt"
	"strings"
)

// probesFile has the answers to all probes, directly and through Leasehold.
const probesFile = "probes.txt"

// asked names a probe of a server.
type asked struct{ probe, server string }

// answers are the two answers to a probe, and why they differ.
type answers struct{ direct, via, why string }

// parseProbes reads lines with the probe, the server, the direct answer, the one
// through Leasehold, and why that is closer to the specification if it is another.
func parseProbes(text string) (map[asked]answers, error) {
	all := map[asked]answers{}
	for i, line := range strings.Split(text, "\n") {
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "|")
		for j := range fields {
			fields[j] = strings.TrimSpace(fields[j])
		}
		if len(fields) < 4 || len(fields) > 5 {
			return nil, fmt.Errorf("%s:%d: want PROBE | SERVER | DIRECTLY | THROUGH LEASEHOLD | WHY, got %q", probesFile, i+1, line)
		}
		a := answers{direct: fields[2], via: fields[3]}
		if len(fields) == 5 {
			a.why = fields[4]
		}
		if (a.direct != a.via) != (a.why != "") {
			return nil, fmt.Errorf("%s:%d: a difference, and nothing else, needs a reason: %q", probesFile, i+1, line)
		}
		key := asked{fields[0], fields[1]}
		if _, twice := all[key]; twice {
			return nil, fmt.Errorf("%s:%d: %v is there twice", probesFile, i+1, key)
		}
		all[key] = a
	}
	return all, nil
}

// line returns the line that stands for two answers.
func line(key asked, a answers) string {
	return strings.TrimSpace(fmt.Sprintf("%-34s | %-17s | %-22s | %-22s | %s", key.probe, key.server, a.direct, a.via, a.why))
}
